//! The problems of `kan bench`: that functions are what their names say.

use std::collections::BTreeSet;
use std::f64::consts::{FRAC_PI_2, FRAC_PI_3, FRAC_PI_6, LN_2, PI, TAU};
use std::fs;

use kan_train_host::dataset::{Dataset, Target};
use kan_train_host::problem::special::{
    ellipkinc, jv, kv, legendre, legendre_2, sph_harm_01, sph_harm_11, sph_harm_22,
};
use kan_train_host::problem::table::{TABLES, linear_log_loss};
use kan_train_host::problem::{self, Bound, Measure, Problem, feynman, toy};
use kan_train_host::train;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Asserts |found − expected| ≤ bound.
#[track_caller]
fn near(found: f64, expected: f64, bound: f64) {
    let error = (found - expected).abs();
    assert!(
        error <= bound,
        "{found} is {error:e} from {expected}, not {bound:e}"
    );
}

/// The second derivative by central differences: with step h the truncation is h²·f⁗/12 and the
/// rounding 4·noise/h².
fn second_difference(f: impl Fn(f64) -> f64, x: f64, h: f64) -> f64 {
    (f(x + h) - 2.0 * f(x) + f(x - h)) / (h * h)
}

#[test]
fn elliptic_integral() {
    for k in 0..=20 {
        let phi = FRAC_PI_2 * f64::from(k) / 20.0;
        // Without eccentricity the arc is the angle.
        near(ellipkinc(phi, 0.0), phi, 1e-15);
        // F(φ | 1) is the inverse Gudermannian.
        if k < 20 {
            near(ellipkinc(phi, 1.0), phi.tan().asinh(), 1e-14);
        }
        // ∂F/∂φ = 1/√(1 − m sin²φ); h² ∂³F/6 and 1e-15/h are below 1e-8.
        if (1..20).contains(&k) {
            let (m, h) = (0.7, 1e-5);
            let slope = (ellipkinc(phi + h, m) - ellipkinc(phi - h, m)) / (2.0 * h);
            near(slope, 1.0 / (1.0 - m * phi.sin().powi(2)).sqrt(), 1e-8);
        }
    }
    // The complete integral at m = ½ is Γ(¼)²/(4√π).
    near(ellipkinc(FRAC_PI_2, 0.5), 1.854_074_677_301_371_9, 1e-15);
    // Computed with 25 digits.
    near(ellipkinc(0.5, 0.3), 0.506_140_211_962_355_3, 1e-15);
    near(ellipkinc(1.2, 0.9), 1.564_898_134_506_671_5, 1e-14);
    near(ellipkinc(FRAC_PI_2, 0.9), 2.578_092_113_348_173_2, 1e-14);
}

#[test]
fn bessel_of_the_first_kind() {
    for k in 1..=24 {
        let x = 0.5 * f64::from(k);
        // The cancellation of the series.
        let noise = 1e-15 * (1.0 + x.exp() / x);
        let amplitude = (2.0 / (PI * x)).sqrt();
        near(jv(0.5, x), amplitude * x.sin(), noise);
        near(jv(1.5, x), amplitude * (x.sin() / x - x.cos()), noise);
        for n in 0..=5 {
            near(jv(f64::from(n), x), libm::jn(n, x), noise);
        }
        for v in [1.3, 2.7, 4.1] {
            let sum = jv(v - 1.0, x) + jv(v + 1.0, x);
            near(sum, 2.0 * v / x * jv(v, x), noise * (2.0 + 2.0 * v / x));
        }
    }
    // Computed with 25 digits.
    near(jv(0.3, 1.0), 0.740_222_479_281_020_5, 1e-14);
    near(jv(2.7, 5.5), 0.159_671_569_402_356_4, 1e-13);
    near(jv(1.25, 7.75), 0.104_969_521_859_019_1, 1e-12);
}

#[test]
fn bessel_of_the_second_kind_modified() {
    for k in 1..=50 {
        let x = 0.1 * f64::from(k);
        let half = (PI / (2.0 * x)).sqrt() * (-x).exp();
        near(kv(0.5, x), half, 1e-13 * half);
        let three_halves = half * (1.0 + 1.0 / x);
        near(kv(1.5, x), three_halves, 1e-13 * three_halves);
        for v in [1.0, 1.3, 2.2] {
            let next = kv(v + 1.0, x);
            near(kv(v - 1.0, x) + 2.0 * v / x * kv(v, x), next, 1e-12 * next);
        }
    }
    // Abramowitz and Stegun, table 9.8, and 25 digits.
    near(kv(0.0, 1.0), 0.421_024_438_240_708_33, 1e-14);
    near(kv(1.0, 1.0), 0.601_907_230_197_234_6, 1e-14);
    near(kv(2.3, 1.7), 0.544_545_476_878_363_4, 1e-14);
    near(kv(3.0, 5.0), 0.008_291_768_415_230_932, 1e-15);
}

#[test]
fn legendre_functions() {
    for k in 0..=19 {
        let x = -0.95 + 0.1 * f64::from(k);
        let square = x * x;
        near(legendre(0.0, x), 1.0, 1e-14);
        near(legendre(1.0, x), x, 1e-14);
        near(legendre(2.0, x), 1.5 * square - 0.5, 1e-14);
        near(legendre(3.0, x), (2.5 * square - 1.5) * x, 1e-14);
        // P²_2 = 3(1 − x²), P²_3 = 15x(1 − x²).
        let rest = 1.0 - square;
        near(legendre_2(0.0, x), 0.0, 1e-12);
        near(legendre_2(1.0, x), 0.0, 1e-12);
        near(legendre_2(2.0, x), 3.0 * rest, 1e-12);
        near(legendre_2(3.0, x), 15.0 * x * rest, 1e-12);
        for v in [0.3, 1.6, 2.4] {
            let p = legendre(v, x);
            let sum = (v + 1.0) * legendre(v + 1.0, x) + v * legendre(v - 1.0, x);
            near(sum, (2.0 * v + 1.0) * x * p, 1e-13);
            // Near −1 the derivatives grow like powers of 1/(1 + x).
            if x > -0.6 {
                let bending = second_difference(|x| legendre(v, x), x, 1e-3);
                near(rest * bending, legendre_2(v, x), 1e-3);
            }
        }
        // P_v(1) = 1 whatever the degree.
        near(legendre(0.15 * f64::from(k), 1.0), 1.0, 1e-15);
    }
    // Computed with 25 digits.
    near(legendre(0.5, 0.0), 0.539_352_601_188_379_4, 1e-14);
    near(legendre(1.7, -0.9), 0.384_242_929_005_200_5, 1e-14);
    near(legendre(2.9, 0.3), -0.411_266_897_682_043_55, 1e-14);
    near(legendre_2(0.5, 0.0), -0.404_514_450_891_284_5, 1e-13);
    near(legendre_2(1.7, -0.5), 2.816_730_766_137_654_3, 1e-12);
    near(legendre_2(2.9, 0.3), 4.269_947_644_951_895, 1e-12);
}

#[test]
fn spherical_harmonics() {
    near(sph_harm_01(0.4, 0.7), 0.373_703_813_916_524_6, 1e-15);
    near(sph_harm_11(0.4, 0.7), -0.205_003_715_659_536_3, 1e-15);
    near(sph_harm_22(0.4, 0.7), 0.111_689_149_950_391_7, 1e-15);
    // ∫ (Re Y)² over the sphere is 1 for m = 0 and ½ else; the midpoint rule is exact in the
    // azimuth and has an error of (π/n)²/24 in the polar angle.
    let n = 400;
    let norm = |f: fn(f64, f64) -> f64| -> f64 {
        let angles = (0..n).flat_map(|i| (0..8).map(move |j| (i, j)));
        let terms = angles.map(|(i, j)| {
            let phi = PI * (f64::from(i) + 0.5) / f64::from(n);
            let theta = TAU * (f64::from(j) + 0.5) / 8.0;
            f(theta, phi).powi(2) * phi.sin()
        });
        terms.sum::<f64>() * PI / f64::from(n) * TAU / 8.0
    };
    near(norm(sph_harm_01), 1.0, 1e-4);
    near(norm(sph_harm_11), 0.5, 1e-4);
    near(norm(sph_harm_22), 0.5, 1e-4);
}

#[test]
fn toy_functions_at_points_known_by_hand() {
    near(toy::exp_sin(&[0.5, 1.0]), 1.0_f64.exp().powi(2), 1e-14);
    near(toy::exp_sin(&[1.0, 0.0]), 1.0, 1e-15);
    near(toy::bessel(&[0.0]), 1.0, 0.0);
    // The first zero of J0.
    near(toy::bessel(&[-2.404_825_557_695_773 / 20.0]), 0.0, 1e-15);
    near(toy::product(&[-0.5, 0.25]), -0.125, 0.0);
    near(toy::mean_square(&[1.0; 100]), 1.0_f64.exp(), 1e-14);
    let half: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
    near(toy::mean_square(&half), 0.5_f64.exp(), 1e-14);
    let quarter = 0.5_f64.sqrt();
    near(
        toy::four(&[quarter, 0.0, 0.0, -quarter]),
        1.0_f64.exp(),
        1e-14,
    );
}

#[test]
fn equations_at_points_known_by_hand() {
    let known: [(&str, &[f64], f64); 28] = [
        ("I.6.2", &[0.0, 1.0], 0.398_942_280_401_432_7),
        ("I.6.2b", &[1.0, 0.0, 1.0], 0.241_970_724_519_143_37),
        ("I.9.18", &[1.0, 0.0, -0.5, 0.5, -1.0, 1.0], 1.0 / 6.0),
        ("I.12.11", &[0.5, FRAC_PI_6], 1.25),
        ("I.13.12", &[0.5, 0.5], 0.5),
        ("I.15.3x", &[0.2, 0.6], 1.0),
        ("I.16.6", &[0.5, 0.5], 0.8),
        ("I.18.4", &[1.0, 0.5], 0.75),
        ("I.26.2", &[0.5, FRAC_PI_2], FRAC_PI_6),
        ("I.27.6", &[0.5, 2.0], 0.5),
        ("I.29.16", &[0.75, PI, FRAC_PI_2], 1.25),
        ("I.30.3", &[2.0, FRAC_PI_2], 2.0),
        ("I.30.5", &[0.75, 1.5], FRAC_PI_6),
        ("I.37.4", &[0.25, FRAC_PI_3], 1.75),
        ("I.40.1", &[0.5, LN_2], 0.25),
        ("I.44.4", &[0.5, 0.5], -0.5 * LN_2),
        ("I.50.26", &[FRAC_PI_3, 0.5], 0.625),
        ("II.2.42", &[1.5, 0.5], 0.25),
        ("II.6.15a", &[0.6, 0.8, 1.0], 0.25 / PI),
        ("II.11.7", &[0.5, 0.5, FRAC_PI_3], 0.625),
        ("II.11.27", &[1.0, 1.0], 1.5),
        ("II.35.18", &[1.0, LN_2], 0.4),
        ("II.36.38", &[0.5, -0.5, 0.5], 0.25),
        ("II.38.3", &[0.5, 2.0], 0.25),
        ("III.9.52", &[1.0, PI, 0.0], 4.0 / (PI * PI)),
        // The removable singularity.
        ("III.9.52", &[0.5, 2.0, 2.0], 0.5),
        ("III.10.19", &[1.0, 1.0], 1.732_050_807_568_877_2),
        ("III.17.37", &[0.5, 0.5, FRAC_PI_3], 0.625),
    ];
    let mut seen = BTreeSet::new();
    for (name, x, expected) in known {
        let find = |problem: &&Problem| problem.name == name;
        let equation = feynman::PROBLEMS.iter().find(find).expect(name);
        let inside = equation
            .inputs
            .iter()
            .zip(x)
            .all(|((_, lo, hi), x)| lo <= x && x <= hi);
        assert!(inside && x.len() == equation.inputs.len(), "{name}");
        near((equation.value)(x), expected, 1e-14);
        seen.insert(name);
    }
    assert_eq!(
        seen.len(),
        feynman::PROBLEMS.len(),
        "every equation has a point"
    );
}

#[test]
fn sinc_is_continuous_where_the_series_begins() {
    let find = |problem: &&Problem| problem.name == "III.9.52";
    let equation = feynman::PROBLEMS.iter().find(find).expect("it is there");
    for h in [0.99e-5, 1.01e-5] {
        // Both branches are 1 − h²/3 to within h⁴; the difference of b and c rounds.
        near(
            (equation.value)(&[1.0, 2.0 + 2.0 * h, 2.0]),
            1.0 - h * h / 3.0,
            1e-15,
        );
    }
}

#[test]
fn every_problem_is_finite_in_its_whole_range() {
    let mut rng = Pcg64Mcg::seed_from_u64(7);
    for problem in problem::all() {
        let n = problem.inputs.len();
        let corners = 1_u32 << n.min(8);
        for corner in 0..corners {
            let pick = |i: usize| {
                let (_, lo, hi) = problem.inputs[i];
                if corner >> (i % 8) & 1 == 1 { hi } else { lo }
            };
            let x: Vec<f64> = (0..n).map(pick).collect();
            assert!((problem.value)(&x).is_finite(), "{} at {x:?}", problem.name);
        }
        for _ in 0..2000 {
            let inputs = problem.inputs.iter();
            let x: Vec<f64> = inputs
                .map(|&(_, lo, hi)| rng.random_range(lo..=hi))
                .collect();
            let y = (problem.value)(&x);
            assert!(
                y.is_finite() && y.abs() < 100.0,
                "{} at {x:?}: {y}",
                problem.name
            );
        }
    }
}

#[test]
fn samples_follow_from_the_seed_and_training_takes_them() {
    let mut names = BTreeSet::new();
    for problem in problem::all() {
        let name = problem.name;
        assert!(names.insert(name.to_lowercase()), "{name} is there twice");
        let (train, test) = problem.data(3);
        assert_eq!(
            (train.rows, test.rows),
            (problem.rows, problem.rows),
            "{name}"
        );
        assert_eq!(train.inputs(), problem.inputs.len(), "{name}");
        assert_ne!(train.x, test.x, "{name}");
        assert_eq!(problem.data(3), (train.clone(), test), "{name}");
        assert_ne!(problem.data(4).0, train, "{name}");
        for (i, &(_, lo, hi)) in problem.inputs.iter().enumerate() {
            let (least, most) = train.range(i);
            assert!(lo <= least && most <= hi, "{name}");
            // A margin of 2 % at one end is missed with probability 0.98^1000 = 2e-9.
            assert!(
                least - lo < 0.02 * (hi - lo) && hi - most < 0.02 * (hi - lo),
                "{name}"
            );
        }
        train::check(&train, &problem.settings(3)).expect(name);
    }
    for table in &TABLES {
        assert!(
            names.insert(table.name.to_lowercase()),
            "{} is there twice",
            table.name
        );
    }
}

#[test]
fn ranges_in_words() {
    let words = |name: &str| {
        let mut all = problem::all();
        all.find(|problem| problem.name == name)
            .expect(name)
            .ranges()
    };
    assert_eq!(words("xy"), "x in −1 … 1, y in −1 … 1");
    assert_eq!(words("hundred-inputs"), "x1 … x100 in −1 … 1");
    assert_eq!(words("I.30.3"), "n in 0 … 4, θ in 0.4π … 1.6π");
    assert_eq!(words("ellipkinc"), "φ in 0 … 0.5π, m in 0 … 0.9");
}

#[test]
fn goals_are_bounds() {
    assert!(Bound::rmse(1e-4).is_met(1e-4) && !Bound::rmse(1e-4).is_met(1.001e-4));
    assert!(!Bound::rmse(1e-4).is_met(f64::NAN));
    // 348 of 359 right, which a table with four digits gives as 0.9694.
    assert!(Bound::accuracy(0.9694).is_met(348.0 / 359.0));
    assert!(!Bound::accuracy(0.9694).is_met(347.0 / 359.0));
    assert!(Bound::r2(0.9).is_met(0.95) && !Bound::r2(0.9).is_met(f64::NEG_INFINITY));
    let slope = Bound {
        measure: Measure::Slope,
        value: -4.0,
    };
    assert!(slope.is_met(-4.2) && !slope.is_met(-3.6) && !slope.is_met(-4.4));
}

#[test]
fn tables_are_found_and_learnt_by_their_first_target() {
    let find = |name: &str| {
        TABLES
            .iter()
            .find(|table| table.name == name)
            .expect("it is there")
    };
    let (train, test) = find("thermocouple_k")
        .read(None)
        .expect("valid")
        .expect("inside");
    assert_eq!((train.rows, test.rows), (4000, 1000));
    assert!(find("airfoil").read(None).expect("no fault").is_none());

    let folder = tempfile::tempdir().expect("a temporary folder");
    let arm = find("ik_2link");
    assert!(arm.read(Some(folder.path())).expect("no fault").is_none());
    fs::create_dir(folder.path().join("ik_2link")).expect("writable");
    arm.read(Some(folder.path()))
        .expect_err("a folder without files");
    let rows: String = (0..12)
        .map(|k| format!("{k},{},{},-1\n", 2 * k, 3 * k))
        .collect();
    for file in ["train.csv", "test.csv"] {
        let path = folder.path().join("ik_2link").join(file);
        fs::write(path, format!("x,y,q1,q2\n{rows}")).expect("writable");
    }
    let (train, _) = arm
        .read(Some(folder.path()))
        .expect("valid")
        .expect("there");
    assert_eq!(train.input_names, ["x", "y"]);
    let y: Vec<f64> = (0..12).map(|k| f64::from(3 * k)).collect();
    let names = vec!["q1".to_string()];
    assert_eq!(train.target, Target::Regression { names, y });
}

#[test]
fn images_are_found_by_their_usual_names() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mnist = TABLES.iter().find(|table| table.name == "mnist");
    let mnist = mnist.expect("it is there");
    let images = folder.path().join("mnist");
    fs::create_dir(&images).expect("writable");
    let fault = mnist.read(Some(folder.path()));
    fault.expect_err("a folder without files");
    let idx = |kind: u8, sizes: &[u32], values: &[u8]| {
        let sizes = sizes.iter().flat_map(|size| size.to_be_bytes());
        let head = [0, 0, 8, kind].into_iter().chain(sizes);
        head.chain(values.iter().copied()).collect::<Vec<u8>>()
    };
    for (part, count) in [("train", 20_u8), ("t10k", 12)] {
        let pixels: Vec<u8> = (0..4 * count).collect();
        let labels: Vec<u8> = (0..count).map(|k| k % 10).collect();
        let rows = u32::from(count);
        let file = |kind: &str| images.join(format!("{part}-{kind}-ubyte"));
        fs::write(file("images-idx3"), idx(3, &[rows, 2, 2], &pixels)).expect("writable");
        fs::write(file("labels-idx1"), idx(1, &[rows], &labels)).expect("writable");
    }
    let sets = mnist.read(Some(folder.path())).expect("valid");
    let (train, test) = sets.expect("there");
    assert_eq!((train.rows, train.inputs(), train.outputs()), (20, 4, 10));
    assert_eq!(
        (test.rows, test.row(1)),
        (12, [4.0, 5.0, 6.0, 7.0].as_slice())
    );
}

/// The excess log-loss of a fitted logistic model with p parameters on N rows is about p/2N; on as
/// many other rows it scatters around that of the truth by less than √(p/N) times that of one row.
#[test]
fn the_logistic_model_is_as_good_as_the_truth() {
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    let logit = |x: &[f64]| 0.02 * x[0] - 3.0 * x[1] + 0.5;
    let mut draw = || {
        let mut x = Vec::new();
        let mut class = Vec::new();
        for _ in 0..4000 {
            // Other units, and a column that is always the same.
            let row = [
                rng.random_range(-100.0..100.0),
                rng.random_range(-1.0..1.0),
                7.0,
            ];
            let p = 1.0 / (1.0 + (-logit(&row)).exp());
            class.push(usize::from(rng.random_range(0.0..1.0) < p));
            x.extend(row);
        }
        let target = Target::Classification {
            name: "label".into(),
            labels: vec!["no".into(), "yes".into()],
            class,
        };
        let input_names = ["a", "b", "c"].map(String::from).to_vec();
        Dataset {
            source: "coins".into(),
            input_names,
            x,
            rows: 4000,
            target,
        }
    };
    let (train, test) = (draw(), draw());
    let Target::Classification { class, .. } = &test.target else {
        unreachable!("it was just made");
    };
    let losses = class.iter().enumerate().map(|(row, &class)| {
        let z = logit(test.row(row));
        (if class == 1 { -z } else { z }).exp().ln_1p()
    });
    let truth = losses.sum::<f64>() / 4000.0;
    near(linear_log_loss(&train, &test), truth, 0.005);
}
