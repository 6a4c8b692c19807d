//! The exponential and what is made of it: SiLU and the logistic function.

/// eˣ by `libm`: within 1 ulp, and the same bits on every target.
#[cfg(not(feature = "micromath"))]
pub(crate) fn exp(x: f32) -> f32 {
    libm::expf(x)
}

/// eˣ by `micromath`, kept to the range where its exponent arithmetic holds.
#[cfg(feature = "micromath")]
pub(crate) fn exp(x: f32) -> f32 {
    if x > 80.0 {
        f32::INFINITY
    } else if x < -80.0 {
        0.0
    } else {
        micromath::F32(x).exp().0
    }
}

/// 1 / (1 + e⁻ˣ).
pub(crate) fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// silu(x) + silu′(x)·excess: SiLU (2.11), continued along its tangent at `x`.
pub(crate) fn silu(x: f32, excess: f32) -> f32 {
    let s = logistic(x);
    x * s + s * (1.0 + x * (1.0 - s)) * excess
}

/// Upper bound of |silu′|, whose maximum is 1.0998; the rest is room for rounding and micromath.
pub(crate) const SILU_SLOPE: f32 = 1.25;
