//! The exponential and what is made of it: the base function and the heads.

/// eˣ by `libm`: within 1 ulp, and the same bits on every target.
#[cfg(not(feature = "micromath"))]
fn exp(x: f32) -> f32 {
    libm::expf(x)
}

/// eˣ by `micromath`, on the range where its exponent arithmetic holds.
#[cfg(feature = "micromath")]
fn exp(x: f32) -> f32 {
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

/// silu(z) + silu′(z)·beyond: SiLU (2.11) at `z`, and on along its tangent there.
///
/// For −1 ≤ z ≤ 1, where neither SiLU nor its slope exceeds 1.
pub(crate) fn silu(z: f32, beyond: f32) -> f32 {
    let s = logistic(z);
    z * s + s * (1.0 + z * (1.0 - s)) * beyond
}

/// Turns logits into probabilities. The largest is subtracted first, so that nothing overflows.
pub(crate) fn softmax(logits: &mut [f32]) {
    let largest = logits
        .iter()
        .fold(f32::NEG_INFINITY, |m, &z| if z > m { z } else { m });
    let mut total = 0.0;
    for value in logits.iter_mut() {
        *value = exp(*value - largest);
        total += *value;
    }
    for value in logits {
        *value /= total;
    }
}

/// The errors stated in the README, for whichever `exp` the crate is built with.
#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    /// Relative error of `exp`. That of micromath is 2(1 − ln 2 + ln²2/2 − ln³2/6 + ln⁴2/24) − 1 =
    /// 0.002388 from its series, and up to 0.00001 from the rounding of x/ln 2.
    const EXP: f64 = if cfg!(feature = "micromath") {
        2.4e-3
    } else {
        1.2e-7
    };

    /// Error of a probability, p(1 − p)·δ if exp is off by δ; and of silu and its slope, which on
    /// −1..1 are off by no more than the probability in them.
    const PROBABILITY: f64 = if cfg!(feature = "micromath") {
        6e-4
    } else {
        1.5e-7
    };

    /// A million numbers of every magnitude up to `largest`, and their negatives.
    fn numbers(largest: f32) -> impl Iterator<Item = f32> {
        let bits = (0..=largest.to_bits()).step_by(1 + largest.to_bits() as usize / 1_000_000);
        bits.map(f32::from_bits)
            .chain([largest])
            .flat_map(|x| [x, -x])
    }

    /// The logistic function and the slope of SiLU in f64.
    fn exact(x: f32) -> (f64, f64) {
        let x = f64::from(x);
        let s = 1.0 / (1.0 + (-x).exp());
        (s, s * (1.0 + x * (1.0 - s)))
    }

    #[test]
    fn exp_keeps_its_stated_error() {
        for x in numbers(80.0) {
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error <= EXP, "exp({x}) is off by {error:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e9) == 0.0 && exp(-f32::INFINITY) == 0.0);
        assert!(exp(1e9) == f32::INFINITY && exp(f32::INFINITY) == f32::INFINITY);
    }

    #[test]
    fn logistic_keeps_its_stated_error() {
        for x in numbers(f32::MAX) {
            let (s, _) = exact(x);
            let error = (f64::from(logistic(x)) - s).abs();
            assert!(error <= PROBABILITY, "logistic({x}) is off by {error:e}");
        }
    }

    /// The nodes' grids end at ±1, but for rounding.
    const END: f32 = 1.000_001;

    #[test]
    fn silu_keeps_its_stated_error() {
        for z in numbers(END) {
            let (s, slope) = exact(z);
            let value = f64::from(z) * s;
            // At most 5 roundings of numbers below 1, and as many as 16 with the slope.
            for (beyond, rounding) in [(0.0, 3e-7), (1.0, 1.3e-6), (-1.0, 1.3e-6)] {
                let expected = value + slope * f64::from(beyond);
                let error = (f64::from(silu(z, beyond)) - expected).abs();
                let stated = PROBABILITY * (1.0 + f64::from(beyond.abs()));
                assert!(
                    error <= stated + rounding,
                    "silu({z}, {beyond}) is off by {error:e}"
                );
            }
        }
    }

    /// What the loader relies on when it bounds the sums.
    #[test]
    fn silu_and_its_slope_do_not_exceed_1() {
        for z in numbers(END) {
            let value = silu(z, 0.0);
            assert!(value.abs() <= 1.0, "silu({z}) = {value}");
            for beyond in [-1.0, 1.0, 1e6] {
                let rise = silu(z, beyond) - value;
                assert!(
                    rise.abs() <= beyond.abs(),
                    "silu({z}, {beyond}) rises by {rise}"
                );
            }
        }
    }

    #[test]
    fn softmax_keeps_its_stated_error() {
        for classes in [2, 3, 16] {
            for k in 0..20_000_u32 {
                let logits: [f32; 16] = core::array::from_fn(|class| {
                    let mix = (k * 16 + class as u32).wrapping_mul(0x9e37_79b9);
                    ((mix ^ mix >> 15) % 4001) as f32 / 100.0 * (1 + k % 5) as f32 / 5.0
                });
                let logits = &logits[..classes];
                let mut probabilities = [0.0; 16];
                probabilities[..classes].copy_from_slice(logits);
                softmax(&mut probabilities[..classes]);
                let total: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
                for (p, &z) in probabilities.iter().zip(logits) {
                    let expected = f64::from(z).exp() / total;
                    let error = (f64::from(*p) - expected).abs();
                    let rounding = 1e-6;
                    assert!(
                        error <= PROBABILITY + rounding,
                        "{logits:?} is off by {error:e}"
                    );
                }
            }
        }
    }
}
