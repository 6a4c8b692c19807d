//! Special functions of two variables, as SciPy defines them, on ranges where they are of order
//! one.

use std::f64::consts::{FRAC_PI_2, PI, TAU};

use super::{Bound, Group, Problem};

/// Carlson's symmetric integral R_F of positive arguments (one may be zero), by duplication;
/// relative error about 1e-15 (Carlson 1995, DLMF 19.36).
fn carlson(mut x: f64, mut y: f64, mut z: f64) -> f64 {
    loop {
        let mean = (x + y + z) / 3.0;
        let (dx, dy, dz) = (1.0 - x / mean, 1.0 - y / mean, 1.0 - z / mean);
        if dx.abs().max(dy.abs()).max(dz.abs()) < 2e-3 {
            // The series of degree 5; its remainder is of degree 6.
            let e2 = dx * dy - dz * dz;
            let e3 = dx * dy * dz;
            let series = 1.0 - e2 / 10.0 + e3 / 14.0 + e2 * e2 / 24.0 - 3.0 * e2 * e3 / 44.0;
            return series / mean.sqrt();
        }
        let lambda = (x * y).sqrt() + (y * z).sqrt() + (z * x).sqrt();
        (x, y, z) = (
            0.25 * (x + lambda),
            0.25 * (y + lambda),
            0.25 * (z + lambda),
        );
    }
}

/// The incomplete elliptic integral of the first kind F(φ | m) = ∫₀^φ dθ/√(1 − m sin²θ), for
/// |φ| ≤ π/2 and m sin²φ < 1.
pub fn ellipkinc(phi: f64, m: f64) -> f64 {
    let (sin, cos) = phi.sin_cos();
    sin * carlson(cos * cos, 1.0 - m * sin * sin, 1.0)
}

/// The Bessel function of the first kind J_v(x) of real order v ≥ 0, for 0 < x ≤ 12, by its power
/// series; cancellation leaves an absolute error of about 1e-16·exp(x)/x.
pub fn jv(v: f64, x: f64) -> f64 {
    let quarter = -0.25 * x * x;
    let mut term = (0.5 * x).powf(v) / libm::tgamma(v + 1.0);
    let mut sum = term;
    for k in 1..200 {
        let k = f64::from(k);
        term *= quarter / (k * (k + v));
        sum += term;
        if term.abs() < 1e-18 * sum.abs() {
            break;
        }
    }
    sum
}

/// The modified Bessel function of the second kind K_v(x) of real order, for x ≥ 0.1: the
/// trapezoidal rule on ∫₀^∞ exp(−x cosh t) cosh(vt) dt (DLMF 10.32.9), which converges
/// geometrically; relative error about 1e-14.
pub fn kv(v: f64, x: f64) -> f64 {
    const STEP: f64 = 1.0 / 32.0;
    let mut sum = 0.5 * (-x).exp();
    for k in 1..1000 {
        let t = STEP * f64::from(k);
        let term = (-x * t.cosh()).exp() * (v * t).cosh();
        sum += term;
        if term < 1e-18 * sum {
            break;
        }
    }
    STEP * sum
}

/// The Legendre function P_v(x) of real degree for −0.98 ≤ x ≤ 1: the midpoint rule on the
/// Mehler–Dirichlet integral (DLMF 14.12.1) after sin(φ/2) = sin(θ/2) sin u, whose integrand
/// cos((v + ½)φ)/cos(φ/2) is smooth and periodic in u; absolute error about 1e-15.
pub fn legendre(v: f64, x: f64) -> f64 {
    const POINTS: u32 = 128;
    // cos θ = x, so sin²(θ/2) = (1 − x)/2.
    let half_sine = (0.5 * (1.0 - x)).max(0.0).sqrt();
    let sum: f64 = (0..POINTS)
        .map(|k| {
            let u = FRAC_PI_2 * (f64::from(k) + 0.5) / f64::from(POINTS);
            let half = (half_sine * u.sin()).asin();
            ((2.0 * v + 1.0) * half).cos() / half.cos()
        })
        .sum();
    sum / f64::from(POINTS)
}

/// The associated Legendre function P²_v(x) = (1 − x²)·P_v″(x) (Ferrers; the phase (−1)² is 1) of
/// real degree for −0.98 ≤ x < 1, by Legendre's equation and
/// (1 − x²)P_v′ = (v + 1)(x P_v − P_{v+1}); absolute error about 1e-15/(1 − x²).
pub fn legendre_2(v: f64, x: f64) -> f64 {
    let p = legendre(v, x);
    let slope = (v + 1.0) * (x * p - legendre(v + 1.0, x)) / (1.0 - x * x);
    2.0 * x * slope - v * (v + 1.0) * p
}

/// The real part of the spherical harmonic Y_n^m at the azimuth `theta` and the polar angle `phi`,
/// as `scipy.special.sph_harm(m, n, theta, phi)`, for (m, n) = (0, 1).
pub fn sph_harm_01(_theta: f64, phi: f64) -> f64 {
    (3.0 / (4.0 * PI)).sqrt() * phi.cos()
}

/// The same for (m, n) = (1, 1).
pub fn sph_harm_11(theta: f64, phi: f64) -> f64 {
    -(3.0 / (8.0 * PI)).sqrt() * phi.sin() * theta.cos()
}

/// The same for (m, n) = (2, 2).
pub fn sph_harm_22(theta: f64, phi: f64) -> f64 {
    (15.0 / (32.0 * PI)).sqrt() * phi.sin().powi(2) * (2.0 * theta).cos()
}

const SPHERE: [(&str, f64, f64); 2] = [("θ", 0.0, TAU), ("φ", 0.0, PI)];

const fn special(
    name: &'static str,
    formula: &'static str,
    inputs: &'static [(&'static str, f64, f64)],
    value: fn(&[f64]) -> f64,
) -> Problem {
    Problem {
        seconds: Some(10.0),
        ..Problem::free(
            name,
            Group::Special,
            formula,
            inputs,
            value,
            Bound::rmse(1e-4),
        )
    }
}

/// The rows of the special functions.
pub const PROBLEMS: [Problem; 8] = [
    special(
        "ellipkinc",
        "F(φ | m)",
        &[("φ", 0.0, FRAC_PI_2), ("m", 0.0, 0.9)],
        |x| ellipkinc(x[0], x[1]),
    ),
    special("jv", "J_v(x)", &[("v", 0.0, 5.0), ("x", 1.0, 10.0)], |x| {
        jv(x[0], x[1])
    }),
    special("kv", "K_v(x)", &[("v", 0.0, 3.0), ("x", 1.0, 5.0)], |x| {
        kv(x[0], x[1])
    }),
    special(
        "lpmv-0",
        "P_v(x)",
        &[("v", 0.0, 3.0), ("x", -0.9, 0.9)],
        |x| legendre(x[0], x[1]),
    ),
    special(
        "lpmv-2",
        "P²_v(x)",
        &[("v", 0.0, 3.0), ("x", -0.5, 0.9)],
        |x| legendre_2(x[0], x[1]),
    ),
    special("sph-harm-01", "Re Y_1^0(θ, φ)", &SPHERE, |x| {
        sph_harm_01(x[0], x[1])
    }),
    special("sph-harm-11", "Re Y_1^1(θ, φ)", &SPHERE, |x| {
        sph_harm_11(x[0], x[1])
    }),
    special("sph-harm-22", "Re Y_2^2(θ, φ)", &SPHERE, |x| {
        sph_harm_22(x[0], x[1])
    }),
];
