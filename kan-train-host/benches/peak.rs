//! How close training comes to the machine's peak, multiply-adds in registers: an epoch of AdamW on
//! \[784, 64, 10\], and Gauss–Newton matrices of small networks on coarse and fine grids.
//! `cargo bench -p kan-train-host --bench peak`

use std::hint::black_box;
use std::time::Instant;

use kan_train_host::adamw::{self, Options, State};
use kan_train_host::network::{Base, Network};
use kan_train_host::objective::{self, Samples, Target};
use kan_train_host::penalty::{Penalty, PenaltyForm};
use kan_train_host::spline::Grid;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

fn main() {
    let peak = peak();
    println!(
        "one core's peak: {:.0} G multiply-adds a second in f32, half of that in f64",
        peak / 1e9
    );
    for width in [[4, 8, 1], [8, 16, 1]] {
        for intervals in [3, 24] {
            second_order(&width, intervals, 0.5 * peak);
        }
    }
    first_order(peak);
}

/// The Gauss–Newton matrix, forward and backward passes with it, on one thread.
fn second_order(width: &[usize], intervals: usize, peak: f64) {
    let rows = 4000;
    let mut rng = Pcg64Mcg::seed_from_u64(7);
    let mut values =
        |count: usize| -> Vec<f64> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let samples = Samples {
        inputs: width[0],
        outputs: 1,
        x: values(rows * width[0]),
        target: Target::Values(values(rows)),
    };
    let grids = vec![Grid::uniform(3, -1.0, 1.0, intervals); width[0]];
    let network = Network::random(width, &grids, Base::Silu, &mut Pcg64Mcg::seed_from_u64(8));
    let vector = network.to_vector();
    let form = PenaltyForm::at(&network, &samples, &Penalty::default());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let best = pool.expect("a thread can be had").install(|| {
        (0..10)
            .map(|_| {
                let clock = Instant::now();
                black_box(objective::expand(
                    &network,
                    &samples,
                    &form.curvature(&vector),
                ));
                clock.elapsed().as_secs_f64()
            })
            .fold(f64::INFINITY, f64::min)
    });
    // The symmetric half of an outer product of what is not zero in a row of J.
    let active = (network.edges() * (network.degree() + 2)) as f64;
    let work = 0.5 * rows as f64 * active * active;
    println!(
        "Gauss-Newton matrix, {width:?}, {intervals} intervals: {:.1} ms for {rows} rows, {:.1} G \
         multiply-adds a second, {:.0} % of the peak in f64",
        1e3 * best,
        work / best / 1e9,
        100.0 * work / best / peak
    );
}

/// Epochs of AdamW.
fn first_order(peak: f64) {
    let (rows, width) = (30_000, [784, 64, 10]);
    let mut rng = Pcg64Mcg::seed_from_u64(9);
    let x: Vec<f64> = (0..rows * width[0])
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    let target = Target::Classes((0..rows).map(|n| n % 10).collect());
    let mut samples = Samples {
        inputs: 784,
        outputs: 10,
        x,
        target,
    };
    for share in [0.0, 0.8] {
        for x in &mut samples.x {
            if rng.random_bool(share) {
                *x = -1.0;
            }
        }
        // Five multiply-adds an edge forward, five back, and five for hidden sensitivities; the
        // rows of the background are not counted, because nothing is calculated for them.
        let dense = 2.0 * (784 * 64) as f64 * (1.0 - share) + 3.0 * 640.0;
        let work = 5.0 * dense * rows as f64;
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let grids = vec![Grid::uniform(3, -1.0, 1.0, 5); width[0]];
            let mut network =
                Network::random(&width, &grids, Base::Silu, &mut Pcg64Mcg::seed_from_u64(10));
            let mut state = State::default();
            let mut best = f64::INFINITY;
            pool.install(|| {
                let mut clock = Instant::now();
                adamw::train(
                    &mut network,
                    &samples,
                    &Options::over(3, 0),
                    &mut state,
                    &mut |_, _, _| {
                        best = best.min(clock.elapsed().as_secs_f64());
                        clock = Instant::now();
                    },
                );
            });
            println!(
                "AdamW, {:.0} % background, {threads} threads: {:.3} s for {rows} rows, {:.1} G multiply-adds a \
                 second, {:.0} % of the peak of as many cores",
                100.0 * share,
                best,
                work / best / 1e9,
                100.0 * work / best / (peak * threads as f64)
            );
        }
    }
}

/// Multiply-adds of `f32` a second of one core in registers.
fn peak() -> f64 {
    struct Chains;
    impl pulp::WithSimd for Chains {
        type Output = f64;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, simd: S) -> f64 {
            const CHAINS: usize = 12;
            let mut sums = [simd.splat_f32s(black_box(0.5)); CHAINS];
            let (a, b) = (
                simd.splat_f32s(black_box(0.999)),
                simd.splat_f32s(black_box(1e-3)),
            );
            let clock = Instant::now();
            let rounds = 2_000_000;
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = simd.mul_add_e_f32s(*sum, a, b);
                }
            }
            for sum in sums {
                black_box(simd.reduce_sum_f32s(sum));
            }
            (rounds * CHAINS * S::F32_LANES) as f64 / clock.elapsed().as_secs_f64()
        }
    }
    (0..10)
        .map(|_| pulp::Arch::new().dispatch(Chains))
        .fold(0.0, f64::max)
}
