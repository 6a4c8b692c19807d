//! The toy functions of the KAN paper (section 3.1), inputs uniform in −1 … 1.

use std::f64::consts::PI;

use super::{Bound, Group, Measure, Problem};

const SQUARE: [(&str, f64, f64); 2] = [("x", -1.0, 1.0), ("y", -1.0, 1.0)];

/// exp(sin πx + y²): exactly a KAN of shape `[2,1,1]`.
pub fn exp_sin(x: &[f64]) -> f64 {
    ((PI * x[0]).sin() + x[1] * x[1]).exp()
}

/// J0(20x).
pub fn bessel(x: &[f64]) -> f64 {
    libm::j0(20.0 * x[0])
}

/// xy, which is ((x + y)² − (x − y)²)/4: exactly a KAN of shape `[2,2,1]`.
pub fn product(x: &[f64]) -> f64 {
    x[0] * x[1]
}

/// exp(mean sin²(πx_i/2)) of any number of inputs: exactly a KAN of shape `[n,1,1]`.
pub fn mean_square(x: &[f64]) -> f64 {
    let squares = x.iter().map(|x| (0.5 * PI * x).sin().powi(2));
    (squares.sum::<f64>() / x.len() as f64).exp()
}

/// exp(½(sin π(x1² + x2²) + sin π(x3² + x4²))): exactly a KAN of shape `[4,2,1,1]`.
pub fn four(x: &[f64]) -> f64 {
    let pair = |a: f64, b: f64| (PI * (a * a + b * b)).sin();
    (0.5 * (pair(x[0], x[1]) + pair(x[2], x[3]))).exp()
}

const EXP_SIN: Problem = Problem {
    width: Some(&[2, 1, 1]),
    grids: Some(&[3, 6, 12, 24, 48, 96]),
    seconds: Some(0.5),
    ..Problem::free(
        "exp-sin",
        Group::Toy,
        "exp(sin πx + y²)",
        &SQUARE,
        exp_sin,
        Bound::rmse(1e-7),
    )
};

const FOUR: Problem = Problem {
    rows: 3000,
    width: Some(&[4, 2, 1, 1]),
    grids: Some(&[3, 6, 12, 24, 48, 96]),
    seconds: Some(10.0),
    ..Problem::free(
        "four-inputs",
        Group::Toy,
        "exp(½(sin π(x1² + x2²) + sin π(x3² + x4²)))",
        &[("x", -1.0, 1.0); 4],
        four,
        Bound::rmse(5e-8),
    )
};

/// The rows of the toy functions.
pub const PROBLEMS: [Problem; 10] = [
    EXP_SIN,
    Problem {
        name: "exp-sin-pruned",
        width: Some(&[2, 5, 1]),
        lamb: Some(1e-3),
        goal: Bound::rmse(1e-6),
        seconds: Some(5.0),
        pruned: Some(&[2, 1, 1]),
        ..EXP_SIN
    },
    Problem {
        name: "exp-sin-no-domain",
        domain: false,
        goal: Bound::rmse(1e-5),
        seconds: None,
        ..EXP_SIN
    },
    Problem {
        name: "exp-sin-quintic",
        degree: 5,
        goal: Bound::rmse(1e-9),
        seconds: None,
        ..EXP_SIN
    },
    Problem {
        width: Some(&[1, 1]),
        grids: Some(&[3, 5, 10, 20, 50, 100, 200]),
        seconds: Some(0.1),
        ..Problem::free(
            "j0",
            Group::Toy,
            "J0(20x)",
            &[("x", -1.0, 1.0)],
            bessel,
            Bound::rmse(4e-7),
        )
    },
    Problem {
        width: Some(&[2, 2, 1]),
        grids: Some(&[3, 6, 12, 24, 48]),
        seconds: Some(1.0),
        ..Problem::free("xy", Group::Toy, "xy", &SQUARE, product, Bound::rmse(1e-9))
    },
    Problem {
        width: Some(&[100, 1, 1]),
        // 1000 rows carry no more than nine parameters an edge: few intervals, so a high degree.
        grids: Some(&[1, 2]),
        degree: 5,
        seconds: Some(30.0),
        ..Problem::free(
            "hundred-inputs",
            Group::Toy,
            "exp(1/100 Σ sin²(πx_i/2))",
            &[("x", -1.0, 1.0); 100],
            mean_square,
            Bound::rmse(1e-4),
        )
    },
    FOUR,
    Problem {
        name: "four-inputs-wide",
        width: Some(&[4, 4, 2, 1]),
        grids: Some(&[3, 6, 12, 24, 48]),
        goal: Bound::rmse(1e-6),
        seconds: Some(30.0),
        ..FOUR
    },
    Problem {
        name: "scaling",
        grids: Some(&[5, 7, 10, 14, 20, 28, 40, 50]),
        goal: Bound {
            measure: Measure::Slope,
            value: -4.0,
        },
        seconds: None,
        ..EXP_SIN
    },
];
