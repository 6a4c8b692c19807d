//! The equations of the KAN paper's table of Feynman data sets, in its dimensionless forms, each
//! with the RMSE of the paper's best KAN as the goal.
//!
//! The paper does not state its ranges; these are chosen in the manner of pykan's: quantities in
//! 0 … 1 or −1 … 1, divisors in 0.5 … 2, angles over a full turn, and away from poles.

use std::f64::consts::{PI, TAU};

use super::{Bound, Group, Problem};

const fn equation(
    name: &'static str,
    formula: &'static str,
    inputs: &'static [(&'static str, f64, f64)],
    value: fn(&[f64]) -> f64,
    paper: f64,
) -> Problem {
    Problem::free(
        name,
        Group::Feynman,
        formula,
        inputs,
        value,
        Bound::rmse(paper),
    )
}

/// exp(−z²/2)/√(2π)/s with z = d/s.
fn gauss(d: f64, s: f64) -> f64 {
    (-0.5 * (d / s).powi(2)).exp() / (TAU.sqrt() * s)
}

/// (sin h / h)², 1 at h = 0.
fn sinc_squared(h: f64) -> f64 {
    // The next term of the series is h⁴·2/45.
    if h.abs() < 1e-5 {
        1.0 - h * h / 3.0
    } else {
        (h.sin() / h).powi(2)
    }
}

/// The rows of the equations.
pub const PROBLEMS: [Problem; 27] = [
    equation(
        "I.6.2",
        "exp(−θ²/2σ²)/√(2πσ²)",
        &[("θ", -1.0, 1.0), ("σ", 0.5, 2.0)],
        |x| gauss(x[0], x[1]),
        2.86e-5,
    ),
    equation(
        "I.6.2b",
        "exp(−(θ−θ1)²/2σ²)/√(2πσ²)",
        &[("θ", -1.5, 1.5), ("θ1", -1.5, 1.5), ("σ", 0.5, 2.0)],
        |x| gauss(x[0] - x[1], x[2]),
        4.45e-4,
    ),
    equation(
        "I.9.18",
        "a/((b−1)² + (c−d)² + (e−f)²)",
        &[
            ("a", -1.0, 1.0),
            ("b", -1.0, 0.0),
            ("c", -1.0, -0.5),
            ("d", 0.5, 1.0),
            ("e", -1.0, -0.5),
            ("f", 0.5, 1.0),
        ],
        |x| x[0] / ((x[1] - 1.0).powi(2) + (x[2] - x[3]).powi(2) + (x[4] - x[5]).powi(2)),
        1.48e-3,
    ),
    equation(
        "I.12.11",
        "1 + a sin θ",
        &[("a", -1.0, 1.0), ("θ", 0.0, TAU)],
        |x| 1.0 + x[0] * x[1].sin(),
        9.13e-4,
    ),
    equation(
        "I.13.12",
        "a(1/b − 1)",
        &[("a", 0.0, 1.0), ("b", 0.5, 2.0)],
        |x| x[0] * (1.0 / x[1] - 1.0),
        2.72e-3,
    ),
    equation(
        "I.15.3x",
        "(1 − a)/√(1 − b²)",
        &[("a", -1.0, 1.0), ("b", -0.9, 0.9)],
        |x| (1.0 - x[0]) / (1.0 - x[1] * x[1]).sqrt(),
        1.14e-3,
    ),
    equation(
        "I.16.6",
        "(a + b)/(1 + ab)",
        &[("a", -0.8, 0.8), ("b", -0.8, 0.8)],
        |x| (x[0] + x[1]) / (1.0 + x[0] * x[1]),
        1.06e-3,
    ),
    equation(
        "I.18.4",
        "(1 + ab)/(1 + a)",
        &[("a", 0.5, 2.0), ("b", -1.0, 1.0)],
        |x| (1.0 + x[0] * x[1]) / (1.0 + x[0]),
        1.50e-4,
    ),
    equation(
        "I.26.2",
        "arcsin(n sin θ2)",
        &[("n", 0.0, 0.99), ("θ2", 0.0, TAU)],
        |x| (x[0] * x[1].sin()).asin(),
        7.90e-4,
    ),
    equation(
        "I.27.6",
        "1/(1 + ab)",
        &[("a", 0.5, 2.0), ("b", 0.5, 2.0)],
        |x| 1.0 / (1.0 + x[0] * x[1]),
        1.94e-4,
    ),
    equation(
        "I.29.16",
        "√(1 + a² − 2a cos(θ1 − θ2))",
        &[("a", -1.0, 1.0), ("θ1", 0.0, TAU), ("θ2", 0.0, TAU)],
        // Rounding must not make the square negative.
        |x| {
            let square = 1.0 + x[0] * x[0] - 2.0 * x[0] * (x[1] - x[2]).cos();
            square.max(0.0).sqrt()
        },
        3.20e-3,
    ),
    equation(
        "I.30.3",
        "sin²(nθ/2)/sin²(θ/2)",
        &[("n", 0.0, 4.0), ("θ", 0.4 * PI, 1.6 * PI)],
        |x| ((0.5 * x[0] * x[1]).sin() / (0.5 * x[1]).sin()).powi(2),
        1.03e-3,
    ),
    equation(
        "I.30.5",
        "arcsin(a/n)",
        &[("a", -1.0, 1.0), ("n", 1.1, 2.0)],
        |x| (x[0] / x[1]).asin(),
        3.49e-5,
    ),
    equation(
        "I.37.4",
        "1 + a + 2√a cos δ",
        &[("a", 0.1, 1.0), ("δ", 0.0, TAU)],
        |x| 1.0 + x[0] + 2.0 * x[0].sqrt() * x[1].cos(),
        4.91e-6,
    ),
    equation(
        "I.40.1",
        "n0 exp(−a)",
        &[("n0", 0.0, 1.0), ("a", -1.0, 1.0)],
        |x| x[0] * (-x[1]).exp(),
        3.12e-4,
    ),
    equation(
        "I.44.4",
        "n ln a",
        &[("n", 0.0, 1.0), ("a", 0.5, 2.0)],
        |x| x[0] * x[1].ln(),
        2.30e-5,
    ),
    equation(
        "I.50.26",
        "cos a + α cos² a",
        &[("a", 0.0, TAU), ("α", 0.0, 1.0)],
        |x| x[0].cos() + x[1] * x[0].cos().powi(2),
        1.52e-4,
    ),
    equation(
        "II.2.42",
        "(a − 1)b",
        &[("a", 0.5, 2.0), ("b", 0.0, 1.0)],
        |x| (x[0] - 1.0) * x[1],
        7.22e-4,
    ),
    equation(
        "II.6.15a",
        "c√(a² + b²)/4π",
        &[("a", 0.0, 1.0), ("b", 0.0, 1.0), ("c", 0.0, 1.0)],
        |x| x[2] * x[0].hypot(x[1]) / (4.0 * PI),
        1.35e-3,
    ),
    equation(
        "II.11.7",
        "n0(1 + a cos θ)",
        &[("n0", 0.0, 1.0), ("a", -1.0, 1.0), ("θ", 0.0, TAU)],
        |x| x[0] * (1.0 + x[1] * x[2].cos()),
        5.03e-3,
    ),
    equation(
        "II.11.27",
        "nα/(1 − nα/3)",
        &[("n", 0.0, 1.0), ("α", 0.0, 2.0)],
        |x| x[0] * x[1] / (1.0 - x[0] * x[1] / 3.0),
        1.43e-5,
    ),
    equation(
        "II.35.18",
        "n0/(exp a + exp −a)",
        &[("n0", 0.0, 1.0), ("a", -1.0, 1.0)],
        |x| x[0] / (2.0 * x[1].cosh()),
        7.71e-5,
    ),
    equation(
        "II.36.38",
        "a + αb",
        &[("a", -1.0, 1.0), ("α", -1.0, 1.0), ("b", -1.0, 1.0)],
        |x| x[0] + x[1] * x[2],
        1.15e-3,
    ),
    equation(
        "II.38.3",
        "a/b",
        &[("a", 0.0, 1.0), ("b", 0.5, 2.0)],
        |x| x[0] / x[1],
        8.78e-5,
    ),
    equation(
        "III.9.52",
        "a sin²((b−c)/2)/((b−c)/2)²",
        &[("a", 0.0, 1.0), ("b", 0.0, PI), ("c", 0.0, PI)],
        |x| x[0] * sinc_squared(0.5 * (x[1] - x[2])),
        3.90e-3,
    ),
    equation(
        "III.10.19",
        "√(1 + a² + b²)",
        &[("a", 0.0, 1.0), ("b", 0.0, 1.0)],
        |x| (1.0 + x[0] * x[0] + x[1] * x[1]).sqrt(),
        8.16e-4,
    ),
    equation(
        "III.17.37",
        "β(1 + α cos θ)",
        &[("β", 0.0, 1.0), ("α", 0.0, 1.0), ("θ", 0.0, TAU)],
        |x| x[0] * (1.0 + x[1] * x[2].cos()),
        4.12e-4,
    ),
];
