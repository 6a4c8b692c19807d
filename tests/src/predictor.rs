//! Predictors give the units of the data; scores have their closed forms.

use kan_train_host::dataset::Target as Column;
use kan_train_host::network::Base;
use kan_train_host::objective;
use kan_train_host::predictor::{self, Predictor, Range, Scale, Score};

use crate::levenberg::start;
use crate::train::{regression, with_target};

#[test]
fn predictors_speak_the_units_of_the_data() {
    // The network sees −1 … 1 and gives deviations: on one interval of degree 1 it is a line.
    let mut network = start(34, &[2, 1], 1, 1, Base::Zero);
    network.layers[0].edges[0].as_mut().unwrap().coef = vec![-1.0, 1.0];
    network.layers[0].edges[1].as_mut().unwrap().coef = vec![-2.0, 2.0];
    let f = |x: &[f64]| 7.0 + 10.0 * ((x[0] - 5.0) / 5.0 + 2.0 * (x[1] - 150.0) / 50.0);
    let x = vec![0.0, 100.0, 10.0, 200.0, 5.0, 150.0, 2.5, 190.0];
    let data = regression(x.clone(), 2, f);
    let inputs = vec![
        Range { lo: 0.0, hi: 10.0 },
        Range {
            lo: 100.0,
            hi: 200.0,
        },
    ];
    let outputs = vec![Scale {
        offset: 7.0,
        scale: 10.0,
    }];
    let samples = predictor::samples(&data, &inputs, &outputs);
    let unit = [-1.0, -1.0, 1.0, 1.0, 0.0, 0.0, -0.5, 0.8];
    assert!(
        samples
            .x
            .iter()
            .zip(unit)
            .all(|(a, b)| (a - b).abs() <= 1e-14)
    );
    assert!(objective::loss(&network, &samples) <= 1e-27);
    let predictor = Predictor {
        format: predictor::FORMAT,
        schema: data.schema(),
        inputs,
        outputs,
        error: 0.0,
        network,
    };
    let found = predictor.eval(&x);
    assert_eq!(found.len(), 4);
    for (found, x) in found.iter().zip(x.chunks(2)) {
        assert!((found - f(x)).abs() <= 1e-12, "{found}, not {}", f(x));
    }
}

#[test]
fn scores_have_their_closed_forms() {
    let near = |a: f64, b: f64| assert!((a - b).abs() <= 1e-14, "{a}, not {b}");
    // Two targets: errors 1, 1 and 0, 2; variances 1 and 4.
    let names = vec!["a".into(), "b".into()];
    let column = Column::Regression {
        names,
        y: vec![0.0, -2.0, 2.0, 2.0],
    };
    let data = with_target(vec![0.0, 1.0], 1, column);
    let Score::Regression { rmse, r2, targets } = Score::of(&[1.0, -2.0, 1.0, 4.0], &data) else {
        panic!("a regression");
    };
    near(rmse, 1.5_f64.sqrt()); // (1 + 1 + 0 + 4)/4
    near(r2.unwrap(), 0.25); // the mean of 1 − 1/1 and 1 − 2/4
    near(targets[0].rmse, 1.0);
    near(targets[1].r2.unwrap(), 0.5);
    assert_eq!(targets[1].name, "b");

    let classes = |count, class: &[usize]| {
        let labels = (0..count).map(|k| k.to_string()).collect();
        let column = Column::Classification {
            name: "c".into(),
            labels,
            class: class.to_vec(),
        };
        with_target(vec![0.0; class.len()], 1, column)
    };
    // One logit: odds 3 to 1 for class 1, twice, and for class 0 once.
    let logit = 3.0_f64.ln();
    let score = Score::of(&[logit, logit, -logit], &classes(2, &[1, 0, 0]));
    let Score::Classification { accuracy, log_loss } = score else {
        panic!("a classification")
    };
    near(accuracy, 2.0 / 3.0);
    near(log_loss, -(0.75_f64.ln() * 2.0 + 0.25_f64.ln()) / 3.0);
    let score = Score::of(
        &[0.0, 2.0_f64.ln(), 0.0, 9.0, 9.0, 9.0],
        &classes(3, &[1, 0]),
    );
    let Score::Classification { accuracy, log_loss } = score else {
        panic!("a classification")
    };
    near(accuracy, 1.0); // the first of equal logits wins
    near(log_loss, -(0.5_f64.ln() + (1.0_f64 / 3.0).ln()) / 2.0);
    // A probability of zero costs ln 1e15; what is no number is not made one.
    let score = Score::of(&[-1e6, 1e6], &classes(2, &[1, 1])).error();
    near(score / 15.0, 10.0_f64.ln() / 2.0);
    for (logits, count) in [(&[f64::NAN][..], 2), (&[0.0, f64::NAN, 0.0][..], 3)] {
        assert!(
            !Score::of(logits, &classes(count, &[1])).error().is_finite(),
            "{logits:?}"
        );
    }
    let one = with_target(
        vec![0.0],
        1,
        Column::Regression {
            names: vec!["y".into()],
            y: vec![1.0],
        },
    );
    assert!(!Score::of(&[f64::NAN], &one).error().is_finite());
}

#[test]
fn without_variance_there_is_no_r2() {
    let score = |outputs: &[f64], y: &[f64], names: &[&str]| {
        let column = Column::Regression {
            names: names.iter().map(ToString::to_string).collect(),
            y: y.to_vec(),
        };
        let data = with_target(vec![0.0; y.len() / names.len()], 1, column);
        match Score::of(outputs, &data) {
            Score::Regression { r2, targets, .. } => (r2, targets),
            Score::Classification { .. } => panic!("a regression"),
        }
    };
    assert_eq!(score(&[2.0], &[1.0], &["y"]).0, None, "one row");
    // The mean of three times 0.1 is not 0.1.
    assert_eq!(score(&[2.0, 0.1, 1.0], &[0.1; 3], &["y"]).0, None);
    assert_eq!(score(&[0.1; 3], &[0.1; 3], &["y"]).0, None, "a perfect fit");
    // Values whose squares vanish.
    assert_eq!(score(&[1.0, 1.0], &[0.0, 1e-200], &["y"]).0, None);
    // One of two targets varies: its own is known, their mean is not.
    let (both, each) = score(&[1.0, 5.0, 2.0, 5.0], &[1.0, 5.0, 2.0, 5.0], &["a", "b"]);
    assert_eq!((both, each[0].r2, each[1].r2), (None, Some(1.0), None));
}
