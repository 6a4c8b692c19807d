//! What the user leaves open is chosen as the data ask for it.

use kan_train_host::dataset::{Dataset, Target};
use kan_train_host::predictor::Score;
use kan_train_host::selection::Tried;
use kan_train_host::train::{Method, Settings, Trained};

use crate::train::{classification, fixed, random_table, train_quietly, with_target};

/// No sum of functions of one input tells these classes: a checkerboard of two by two.
fn checkerboard(seed: u64, rows: usize) -> Dataset {
    classification(random_table(seed, rows, 2), 2, 2, |x| {
        usize::from(x[0] * x[1] > 0.0)
    })
}

fn accuracy(data: &Dataset, trained: &Trained) -> f64 {
    match Score::of(&trained.predictor.eval(&data.x), data) {
        Score::Classification { accuracy, .. } => accuracy,
        other => panic!("{other:?} is no score of a classification"),
    }
}

#[test]
fn classes_that_need_a_hidden_layer_get_one_and_adamw() {
    let quick = Settings {
        steps: Some(60),
        ..Settings::default()
    };
    let trained = train_quietly(&checkerboard(1, 1600), &quick).unwrap();
    assert_eq!(trained.descent.method, Method::AdamW);
    assert_eq!(trained.predictor.network.width().len(), 3);
    assert!(trained.why.is_some());
    // It had the additive network to compete with, by second order.
    let second_order = |t: &&Tried| t.epochs.is_none();
    let tried = trained.tried.iter().find(second_order);
    assert_eq!(tried.unwrap().width, [2, 1]);
    // A boundary of length 4 in a square of area 4: within 0.01 of it are 2 % of the rows.
    let right = accuracy(&checkerboard(2, 1000), &trained);
    assert!(right >= 0.97, "{right}");
}

#[test]
fn classes_that_a_sum_tells_get_the_additive_network_and_second_order() {
    // Noise beside it, so that no network can do better than the sum.
    let table = random_table(3, 1600, 3);
    let noisy = |x: &[f64]| usize::from(x[0] + x[1] + x[2] > 0.0);
    let mut data = classification(table, 3, 2, noisy);
    data.x = data.x.chunks(3).flat_map(|x| [x[0], x[1]]).collect();
    data.input_names.pop();
    let trained = train_quietly(&data, &Settings::default()).unwrap();
    assert_eq!(trained.descent.method, Method::Lm);
    assert_eq!(trained.predictor.network.width(), [2, 1]);
    let competed = trained.tried.iter().any(|tried| tried.epochs.is_some());
    assert!(competed, "hidden layers took part");
}

#[test]
fn what_adamw_does_not_know_is_left_to_second_order() {
    let data = checkerboard(4, 200);
    let shape = fixed(&[2, 2, 1], &[3]);
    let asked = [
        Settings {
            roughness: Some(1e-4),
            ..shape.clone()
        },
        Settings {
            lamb: Some(1e-3),
            ..shape.clone()
        },
        Settings {
            optimizer: Some(Method::Lm),
            ..shape.clone()
        },
    ];
    for settings in asked {
        let trained = train_quietly(&data, &settings).unwrap();
        assert_eq!(trained.descent.method, Method::Lm, "{settings:?}");
    }
    // And an additive network is a convex problem.
    let trained = train_quietly(&data, &fixed(&[2, 1], &[3])).unwrap();
    assert_eq!(trained.descent.method, Method::Lm);
}

#[test]
fn a_width_that_is_fixed_keeps_its_grids() {
    let data = checkerboard(6, 60);
    let shape = fixed(&[2, 4, 1], &[3, 6, 12]);
    let trained = train_quietly(&data, &shape).unwrap();
    assert_eq!(trained.descent.method, Method::AdamW);
    let grids: Vec<usize> = trained.stages.iter().map(|stage| stage.grid).collect();
    assert_eq!(grids, [3, 6, 12]);
}

#[test]
fn epochs_are_as_many_as_asked_for_or_chosen() {
    let data = checkerboard(5, 200);
    let shape = fixed(&[2, 4, 1], &[5]);
    let asked = Settings {
        steps: Some(3),
        ..shape.clone()
    };
    let trained = train_quietly(&data, &asked).unwrap();
    assert_eq!(
        (trained.descent.method, trained.descent.steps),
        (Method::AdamW, 3)
    );
    assert!(trained.tried.is_empty(), "nothing was left open");
    let trained = train_quietly(&data, &shape).unwrap();
    assert_eq!(trained.descent.method, Method::AdamW);
    let winner = &trained.tried[0];
    assert_eq!(winner.epochs, Some(trained.descent.steps));
    assert!(
        trained.tried.len() > 1,
        "several numbers of epochs competed"
    );
}

/// A function of two inputs that no sum tells, a tenth of it noise.
fn noisy(seed: u64, rows: usize) -> Dataset {
    let noise = random_table(seed + 1, rows, 1);
    let x = random_table(seed, rows, 2);
    let y = x
        .chunks(2)
        .zip(&noise)
        .map(|(x, noise)| (4.0 * x[0].hypot(x[1])).sin() + x[0] * x[1] + 0.3 * noise)
        .collect();
    let names = vec!["y".into()];
    with_target(x, 2, Target::Regression { names, y })
}

#[test]
fn noise_is_averaged_over_networks_as_far_as_that_pays() {
    let free = Settings {
        steps: Some(8),
        grid: Some(vec![3, 6]),
        ..Settings::default()
    };
    let learn = |data: &Dataset, settings: &Settings| {
        train_quietly(data, settings).expect("the table can be learnt")
    };
    // What a pair of networks has in common is chance: so one table is not enough.
    let tables: Vec<Dataset> = (31..37).map(|seed| noisy(seed, 150)).collect();
    let mut eight = None;
    for data in &tables {
        let trained = learn(data, &free);
        let winner = &trained.tried[0];
        assert!(winner.members <= 4, "candidates are means of four at most");
        // A member's variance falls from a fourth to an eighth; twice the parameters cost 2 %.
        let loss = winner.loss - winner.variance / 8.0;
        let pays = winner.members == 4 && loss * 2f64.powf(0.03) < winner.loss;
        let members = if pays { 8 } else { winner.members };
        assert_eq!(trained.members.len(), members, "{winner:?}");
        assert_eq!(trained.width_before[1], members * winner.width[1]);
        if pays {
            eight = Some(data);
        }
    }
    let data = eight.expect("noise calls for eight on one of the tables");

    let sparse = Settings {
        lamb: Some(1e-3),
        ..free.clone()
    };
    let trained = learn(data, &sparse);
    assert_eq!(trained.members.len(), 1, "a sparse network is one");
    assert_eq!(trained.width_before, trained.tried[0].width);
    let fixed = Settings {
        width: Some(vec![2, 4, 1]),
        ..free
    };
    assert_eq!(
        learn(data, &fixed).members.len(),
        1,
        "--width means one network"
    );
}
