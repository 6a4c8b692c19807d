//! Splines and grids, against the textbook recursion, finite differences and closed forms.

use kan_train_host::spline::{Fit, Grid, GridError, MAX_DEGREE, MAX_ORDER, Refit};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// The recursion of Cox and de Boor as the textbook has it, on knots of its own: the breaks, and
/// `degree` more on each side at their mean distance.
pub struct Textbook {
    degree: usize,
    knots: Vec<f64>,
    lo: f64,
    hi: f64,
}

impl Textbook {
    pub fn new(grid: &Grid) -> Self {
        let (degree, breaks) = (grid.degree(), grid.breaks());
        let (lo, hi) = (breaks[0], breaks[breaks.len() - 1]);
        let step = (hi - lo) / (breaks.len() - 1) as f64;
        let mut knots = breaks.to_vec();
        for k in 1..=degree {
            knots.insert(0, lo - k as f64 * step);
            knots.push(hi + k as f64 * step);
        }
        Self {
            degree,
            knots,
            lo,
            hi,
        }
    }

    /// The number of basis functions.
    pub fn functions(&self) -> usize {
        self.knots.len() - self.degree - 1
    }

    fn basis(&self, i: usize, degree: usize, x: f64) -> f64 {
        let t = &self.knots;
        if degree == 0 {
            // The last interval of the grid is closed.
            let closed = x == self.hi && t[i + 1] == self.hi;
            return f64::from(u8::from(
                closed || (t[i] <= x && x < t[i + 1] && x != self.hi),
            ));
        }
        (x - t[i]) / (t[i + degree] - t[i]) * self.basis(i, degree - 1, x)
            + (t[i + degree + 1] - x) / (t[i + degree + 1] - t[i + 1])
                * self.basis(i + 1, degree - 1, x)
    }

    /// B_i at `x` on the grid.
    pub fn value(&self, i: usize, x: f64) -> f64 {
        self.basis(i, self.degree, x)
    }

    /// B_i′ at `x` on the grid.
    pub fn slope(&self, i: usize, x: f64) -> f64 {
        let (k, t) = (self.degree, &self.knots);
        k as f64
            * (self.basis(i, k - 1, x) / (t[i + k] - t[i])
                - self.basis(i + 1, k - 1, x) / (t[i + k + 1] - t[i + 1]))
    }

    /// B_i″ at `x` on the grid, degree 2 or more.
    pub fn curvature(&self, i: usize, x: f64) -> f64 {
        let (k, t) = (self.degree, &self.knots);
        let slope = |i: usize| {
            (k - 1) as f64
                * (self.basis(i, k - 2, x) / (t[i + k - 1] - t[i])
                    - self.basis(i + 1, k - 2, x) / (t[i + k] - t[i + 1]))
        };
        k as f64 * (slope(i) / (t[i + k] - t[i]) - slope(i + 1) / (t[i + k + 1] - t[i + 1]))
    }

    /// Value and slope of Σ c_i B_i, linear outside the grid.
    pub fn spline(&self, coef: &[f64], x: f64) -> (f64, f64) {
        let inside = x.clamp(self.lo, self.hi);
        let sum = |f: &dyn Fn(usize) -> f64| coef.iter().enumerate().map(|(i, c)| c * f(i)).sum();
        let value: f64 = sum(&|i| self.value(i, inside));
        let slope: f64 = sum(&|i| self.slope(i, inside));
        (value + slope * (x - inside), slope)
    }
}

/// The integral of `f` by Romberg's rule with `2^levels` intervals, exact for polynomials of degree
/// `2·levels + 1`.
pub fn romberg(levels: usize, lo: f64, hi: f64, f: impl Fn(f64) -> f64) -> f64 {
    let mut rows = vec![0.5 * (hi - lo) * (f(lo) + f(hi))];
    for level in 1..=levels {
        let count = 1_usize << level;
        let step = (hi - lo) / count as f64;
        let odd: f64 = (1..count).step_by(2).map(|k| f(lo + k as f64 * step)).sum();
        let mut next = vec![0.5 * rows[0] + step * odd];
        for (m, row) in rows.iter().enumerate() {
            let four = f64::powi(4.0, m as i32 + 1);
            next.push((four * next[m] - row) / (four - 1.0));
        }
        rows = next;
    }
    rows[levels]
}

/// A grid whose intervals differ by factors up to nine.
pub fn irregular(rng: &mut Pcg64Mcg, degree: usize, lo: f64, hi: f64, intervals: usize) -> Grid {
    let steps: Vec<f64> = (0..intervals).map(|_| rng.random_range(0.2..1.8)).collect();
    let total: f64 = steps.iter().sum();
    let mut sum = 0.0;
    let mut breaks = vec![lo];
    for step in &steps[..intervals - 1] {
        sum += step;
        breaks.push(lo + sum / total * (hi - lo));
    }
    breaks.push(hi);
    Grid::new(degree, &breaks).unwrap()
}

/// Grids of every degree: even and uneven, one interval and many, near zero and far away.
fn grids() -> Vec<Grid> {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut grids = Vec::new();
    for degree in 1..=MAX_DEGREE {
        for intervals in [1, 2, 3, 8, 31] {
            grids.push(Grid::uniform(degree, -1.0, 1.0, intervals));
            grids.push(irregular(&mut rng, degree, -2.0, 0.5, intervals));
        }
        grids.push(Grid::uniform(degree, 100.0, 101.0, 10));
        grids.push(irregular(&mut rng, degree, -1e-6, 2e-6, 7));
        grids.push(irregular(&mut rng, degree, -3e6, 1e6, 7));
    }
    grids
}

/// Both ends of every interval and points between.
fn points(grid: &Grid) -> Vec<f64> {
    let inner = grid.breaks().windows(2).flat_map(|pair| {
        [0.0, 0.01, 0.3, 0.5, 0.77, 0.999].map(|part| pair[0] + part * (pair[1] - pair[0]))
    });
    inner.chain([grid.hi()]).collect()
}

/// Points beyond both ends.
fn outside(grid: &Grid) -> [f64; 6] {
    let range = grid.hi() - grid.lo();
    let below = [1e-9, 0.1, 3.0].map(|part| grid.lo() - part * range);
    let above = [1e-9, 0.1, 3.0].map(|part| grid.hi() + part * range);
    [below[0], below[1], below[2], above[0], above[1], above[2]]
}

pub fn narrowest(grid: &Grid) -> f64 {
    grid.breaks()
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .fold(f64::INFINITY, f64::min)
}

/// A bound on the rounding error of a basis function's value. All terms of the recursion are
/// positive and at most 1: each of the k levels adds eight roundings; and knots and argument are
/// off by a few units in the last place, which count in units of the narrowest interval.
pub fn rounding(grid: &Grid) -> f64 {
    let largest = grid.lo().abs().max(grid.hi().abs());
    f64::EPSILON * (8.0 * grid.degree() as f64 + 4.0 * largest / narrowest(grid))
}

/// All basis functions at `x`: values and slopes.
fn dense(grid: &Grid, x: f64) -> (Vec<f64>, Vec<f64>) {
    let local = grid.local(x);
    let (mut value, mut slope) = (vec![0.0; grid.functions()], vec![0.0; grid.functions()]);
    for r in 0..=grid.degree() {
        value[local.first + r] = local.value[r];
        slope[local.first + r] = local.slope[r];
    }
    (value, slope)
}

fn coefficients(rng: &mut Pcg64Mcg, grid: &Grid) -> Vec<f64> {
    (0..grid.functions())
        .map(|_| rng.random_range(-1.0..1.0))
        .collect()
}

/// The largest difference of two functions at `points`.
fn distance(points: &[f64], f: impl Fn(f64) -> f64, g: impl Fn(f64) -> f64) -> f64 {
    points
        .iter()
        .map(|&x| (f(x) - g(x)).abs())
        .fold(0.0, f64::max)
}

#[test]
fn basis_functions_are_those_of_the_textbook() {
    for grid in grids() {
        let textbook = Textbook::new(&grid);
        assert_eq!(grid.functions(), textbook.functions());
        assert_eq!(grid.functions(), grid.intervals() + grid.degree());
        let bound = rounding(&grid);
        for x in points(&grid) {
            let (values, slopes) = dense(&grid, x);
            for i in 0..grid.functions() {
                let (value, slope) = (textbook.value(i, x), textbook.slope(i, x));
                assert!(
                    (values[i] - value).abs() <= bound,
                    "{grid:?} B_{i}({x}): {}",
                    values[i]
                );
                // A slope of degree 1 jumps at the knots; of two values that are both its limits
                // the right-hand one counts, but at the upper end, and rounding may not decide.
                let breaks = grid.breaks();
                let at_knot = breaks
                    .iter()
                    .any(|t| (t - x).abs() <= bound * narrowest(&grid));
                if grid.degree() > 1 || !at_knot {
                    // k·(B_{i,k−1}/width − B_{i+1,k−1}/width), each width k narrowest ones.
                    let bound = 4.0 * bound / narrowest(&grid);
                    assert!((slopes[i] - slope).abs() <= bound, "{grid:?} B_{i}′({x})");
                }
            }
        }
    }
}

#[test]
fn basis_functions_are_positive_local_and_sum_to_one() {
    for grid in grids() {
        let bound = MAX_ORDER as f64 * rounding(&grid);
        for x in points(&grid) {
            let local = grid.local(x);
            let knots = grid.knots();
            let slack = bound * narrowest(&grid);
            assert!(knots[local.first + grid.degree()] <= x + slack);
            assert!(x <= knots[local.first + grid.degree() + 1] + slack);
            assert!(
                local.value.iter().all(|&b| b >= -bound),
                "{grid:?} at {x}: {local:?}"
            );
            assert!(local.value[grid.degree() + 1..].iter().all(|&b| b == 0.0));
            assert!(local.slope[grid.degree() + 1..].iter().all(|&b| b == 0.0));
        }
        for x in points(&grid).into_iter().chain(outside(&grid)) {
            let beyond = (x - grid.clamp(x)).abs() / narrowest(&grid);
            let local = grid.local(x);
            let sum: f64 = local.value.iter().sum();
            assert!(
                (sum - 1.0).abs() <= bound * (1.0 + 4.0 * beyond),
                "{grid:?} at {x}: {sum}"
            );
            let sum: f64 = local.slope.iter().sum();
            assert!(
                sum.abs() <= 4.0 * bound / narrowest(&grid),
                "{grid:?} at {x}: {sum}"
            );
            let sum: f64 = grid.curvature(x).1.iter().sum();
            let degree = grid.degree() as f64;
            let scale = (2.0 * degree / narrowest(&grid)).powi(2);
            assert!(sum.abs() <= 4.0 * bound * scale, "{grid:?} at {x}: {sum}");
        }
    }
}

#[test]
fn slope_and_curvature_are_the_limits_of_difference_quotients() {
    for grid in grids() {
        // A derivative of order m is at most (2/δ)^m: each differentiation takes a difference of
        // two functions of one degree less over k intervals, times k.
        let narrow = narrowest(&grid);
        let step = 3e-5 * narrow;
        let truncation = |order: i32| step * step / 6.0 * (2.0 / narrow).powi(order + 2);
        for pair in grid.breaks().windows(2) {
            for part in [0.1, 0.37, 0.5, 0.9] {
                let x = pair[0] + part * (pair[1] - pair[0]);
                let (below, above) = (x - step, x + step);
                let run = above - below;
                let (before, at, after) = (grid.local(below), grid.local(x), grid.local(above));
                assert!(before.first == at.first && at.first == after.first);
                let (first, curvature) = grid.curvature(x);
                assert_eq!(first, at.first);
                for (r, bent) in curvature.iter().enumerate().take(grid.degree() + 1) {
                    let quotient = (after.value[r] - before.value[r]) / run;
                    let bound = truncation(1) + rounding(&grid) / step;
                    assert!(
                        (at.slope[r] - quotient).abs() <= bound,
                        "{grid:?} at {x}, {r}"
                    );
                    let quotient = (after.slope[r] - before.slope[r]) / run;
                    let bound = truncation(2) + 4.0 * rounding(&grid) / narrow / step;
                    assert!((bent - quotient).abs() <= bound, "{grid:?} at {x}, {r}″");
                }
            }
        }
    }
}

#[test]
fn curvature_is_that_of_the_textbook_and_zero_where_splines_are_linear() {
    for grid in grids() {
        let textbook = Textbook::new(&grid);
        for x in points(&grid) {
            let (first, curvature) = grid.curvature(x);
            let knot = grid
                .breaks()
                .iter()
                .any(|t| (t - x).abs() <= 1e-9 * narrowest(&grid));
            for (r, bent) in curvature.iter().enumerate().take(grid.degree() + 1) {
                let exact = match grid.degree() {
                    1 => 0.0,
                    2 if knot => continue, // it jumps
                    _ => textbook.curvature(first + r, x),
                };
                let bound = 16.0 * rounding(&grid) / narrowest(&grid).powi(2);
                assert!((bent - exact).abs() <= bound, "{grid:?} at {x}, {r}");
            }
        }
        for x in outside(&grid) {
            assert_eq!(grid.curvature(x).1, [0.0; MAX_ORDER], "{grid:?} at {x}");
        }
    }
}

#[test]
fn a_spline_goes_on_linearly_outside_its_grid() {
    let mut rng = Pcg64Mcg::seed_from_u64(2);
    for grid in grids() {
        let coef = coefficients(&mut rng, &grid);
        let textbook = Textbook::new(&grid);
        let narrow = narrowest(&grid);
        for (end, x) in [grid.lo(); 3]
            .into_iter()
            .chain([grid.hi(); 3])
            .zip(outside(&grid))
        {
            let (value, slope) = textbook.spline(&coef, end);
            let beyond = x - end;
            let bound =
                grid.functions() as f64 * rounding(&grid) * (1.0 + 4.0 * beyond.abs() / narrow);
            let line = value + slope * beyond;
            assert!(
                (grid.eval(&coef, x) - line).abs() <= bound,
                "{grid:?} at {x}"
            );
            let slopes = |x: f64| -> f64 {
                dense(&grid, x)
                    .1
                    .iter()
                    .zip(&coef)
                    .map(|(b, c)| b * c)
                    .sum()
            };
            assert_eq!(slopes(x), slopes(end), "the slope is the one at the end");
            // Second difference of three points outside.
            let f = |part: f64| grid.eval(&coef, end + part * beyond);
            assert!(
                (f(1.0) - 2.0 * f(2.0) + f(3.0)).abs() <= 8.0 * bound,
                "{grid:?} at {x}"
            );
        }
    }
}

/// A bound on the error of the values of a least-squares fit of numbers up to 1. The basis has a
/// condition number below k·2^k (de Boor); the normal equations square it.
fn fit_rounding(degree: usize) -> f64 {
    let condition = degree as f64 * f64::powi(2.0, degree as i32);
    64.0 * condition * condition * f64::EPSILON
}

#[test]
fn fits_reproduce_polynomials_up_to_the_degree_and_no_further() {
    for grid in grids() {
        let (mid, half) = (0.5 * (grid.lo() + grid.hi()), 0.5 * (grid.hi() - grid.lo()));
        let fit = Fit::new(&grid);
        let far = grid.lo().abs().max(grid.hi().abs()) / half * f64::EPSILON;
        for power in 0..=grid.degree() as i32 {
            let polynomial = |x: f64| ((x - mid) / half).powi(power);
            let coef = fit.fit(polynomial);
            let error = distance(&points(&grid), |x| grid.eval(&coef, x), polynomial);
            let bound = fit_rounding(grid.degree()) * (1.0 + far / f64::EPSILON / 16.0);
            assert!(
                error <= bound,
                "{grid:?}: x^{power} is off by {error}, more than {bound}"
            );
        }
        // One interval holds polynomials and nothing else: the best of degree k misses x^(k+1) by
        // 2^−k, Chebyshev's number.
        if grid.intervals() == 1 {
            let degree = grid.degree() as i32;
            let monomial = |x: f64| ((x - mid) / half).powi(degree + 1);
            let coef = fit.fit(monomial);
            let error = distance(&points(&grid), |x| grid.eval(&coef, x), monomial);
            assert!(error >= 0.5 * f64::powi(2.0, -degree), "{grid:?}: {error}");
        }
    }
}

#[test]
fn fits_reproduce_the_splines_of_their_grid() {
    let mut rng = Pcg64Mcg::seed_from_u64(3);
    for grid in grids() {
        let coef = coefficients(&mut rng, &grid);
        let again = Fit::new(&grid).fit(|x| grid.eval(&coef, x));
        let points: Vec<f64> = points(&grid);
        let error = distance(&points, |x| grid.eval(&again, x), |x| grid.eval(&coef, x));
        let bound = fit_rounding(grid.degree()) + 64.0 * rounding(&grid);
        assert!(error <= bound, "{grid:?}: {error}, more than {bound}");
    }
}

#[test]
fn refits_to_nested_grids_are_exact() {
    let mut rng = Pcg64Mcg::seed_from_u64(4);
    for grid in grids() {
        let mut more = grid.breaks().to_vec();
        for _ in 0..5 {
            more.push(rng.random_range(grid.lo()..grid.hi()));
        }
        more.sort_by(f64::total_cmp);
        // Not closer than a twentieth of the narrowest interval.
        let apart = 0.05 * narrowest(&grid);
        let old = grid.breaks().to_vec();
        more.retain(|x| old.contains(x) || old.iter().all(|t| (t - x).abs() > apart));
        let mut spread: Vec<f64> = Vec::new();
        for x in more {
            if spread.last().is_some_and(|last| x - last <= apart) && !old.contains(&x) {
                continue;
            }
            spread.push(x);
        }
        let added = Grid::new(grid.degree(), &spread).unwrap();
        let times = |m: usize| grid.with_intervals(m * grid.intervals());
        for finer in [grid.clone(), times(2), times(3), times(16), added] {
            assert!(grid.nested_in(&finer), "{grid:?} in {finer:?}");
            let coef = coefficients(&mut rng, &grid);
            let refit = grid.refit(&finer);
            assert!(matches!(refit, Refit::Insert { .. }));
            let new = refit.apply(&coef);
            assert_eq!(new.len(), finer.functions());
            // Near the origin 1e-12 of the largest coefficient; where a knot's last place counts
            // for more, that.
            let bound = f64::max(1e-12, 64.0 * (rounding(&grid) + rounding(&finer)));
            let error = distance(
                &points(&finer),
                |x| finer.eval(&new, x),
                |x| grid.eval(&coef, x),
            );
            assert!(
                error <= bound,
                "{grid:?} to {finer:?}: {error}, more than {bound}"
            );
            for x in outside(&grid) {
                let beyond = (x - grid.clamp(x)).abs() / narrowest(&finer);
                let error = (finer.eval(&new, x) - grid.eval(&coef, x)).abs();
                assert!(
                    error <= bound * (1.0 + 4.0 * beyond),
                    "{grid:?} at {x}: {error}"
                );
            }
        }
    }
}

#[test]
fn nesting_is_seen_where_it_is_and_only_there() {
    let grid = |breaks: &[f64]| Grid::new(3, breaks).unwrap();
    let coarse = grid(&[0.0, 0.5, 1.0]);
    assert!(coarse.nested_in(&coarse));
    assert!(coarse.nested_in(&grid(&[0.0, 0.1, 0.5, 0.6, 1.0])));
    assert!(
        !coarse.nested_in(&grid(&[0.0, 0.25, 0.75, 1.0])),
        "a break is missing"
    );
    assert!(
        !coarse.nested_in(&grid(&[0.0, 0.5, 1.0, 1.5])),
        "another end"
    );
    assert!(
        !coarse.nested_in(&grid(&[-0.5, 0.0, 0.5, 1.0])),
        "another beginning"
    );
    assert!(
        !coarse.nested_in(&Grid::new(2, &[0.0, 0.5, 1.0]).unwrap()),
        "another degree"
    );
    assert!(
        !grid(&[0.0, 0.5, 0.75, 1.0]).nested_in(&coarse),
        "coarser, not finer"
    );
}

#[test]
fn refits_to_other_grids_converge_with_order_degree_plus_one() {
    for degree in 1..=MAX_DEGREE {
        let smooth = |x: f64| (3.0 * x).sin();
        // Fine enough to count as the function itself.
        let from = Grid::uniform(degree, -1.0, 1.0, 389);
        let coef = Fit::new(&from).fit(smooth);
        let errors: Vec<f64> = [10, 20, 40]
            .map(|intervals| {
                let to = Grid::uniform(degree, -1.0, 1.0, intervals);
                let refit = from.refit(&to);
                assert!(matches!(refit, Refit::Fit { .. }));
                let new = refit.apply(&coef);
                distance(&points(&to), |x| to.eval(&new, x), smooth)
            })
            .to_vec();
        // Taylor's remainder on one interval bounds the best approximation from above.
        let factorial: f64 = (1..=degree + 1).map(|m| m as f64).product();
        let order = degree as i32 + 1;
        assert!(
            errors[0] <= (3.0_f64 * 0.2).powi(order) / factorial,
            "{degree}: {errors:?}"
        );
        for pair in errors.windows(2) {
            let observed = (pair[0] / pair[1]).log2();
            assert!(
                observed >= f64::from(order) - 0.3,
                "degree {degree}: {errors:?}"
            );
        }
    }
}

#[test]
fn finer_grids_keep_range_degree_and_count() {
    for grid in grids() {
        for intervals in [1, 2, 5, 17, 62] {
            let other = grid.with_intervals(intervals);
            let ends = (other.lo(), other.degree(), other.intervals());
            assert_eq!(ends, (grid.lo(), grid.degree(), intervals));
            assert!((other.hi() - grid.hi()).abs() <= f64::EPSILON * grid.hi().abs());
            assert_eq!(
                other.is_uniform(),
                grid.is_uniform() || intervals == 1,
                "{grid:?}"
            );
        }
    }
}

#[test]
fn grids_follow_quantiles_blended_with_even_spacing() {
    // x = t² for even t: the quantile at part p is p².
    let samples: Vec<f64> = (0..=100).map(|t| (f64::from(t) / 100.0).powi(2)).collect();
    for (grid_eps, eps) in [
        (0.0, 0.01),
        (0.01, 0.01),
        (0.3, 0.3),
        (1.0, 1.0),
        (7.0, 1.0),
    ] {
        let grid = Grid::from_samples(3, &samples, 10, grid_eps, 0.0);
        for (k, knot) in grid.breaks().iter().enumerate() {
            let part = k as f64 / 10.0;
            let blend = eps * part + (1.0 - eps) * part * part;
            assert!(
                (knot - blend).abs() <= 4.0 * f64::EPSILON,
                "{grid_eps}: break {k} is {knot}"
            );
        }
    }
    // Between two samples the quantile is on the line between them; the margin is a part of the
    // range; order and repetition do not count; what is not a number is left out.
    let samples = [
        4.0,
        f64::NAN,
        1.0,
        4.0,
        1.0,
        0.0,
        f64::INFINITY,
        4.0,
        f64::NEG_INFINITY,
    ];
    let grid = Grid::from_samples(2, &samples, 4, 0.5, 0.25);
    let blend = |even: f64, quantile: f64| 0.5 * even + 0.5 * quantile;
    let expected = [-1.0, blend(0.5, 0.5), blend(2.0, 1.0), blend(3.5, 2.5), 5.0];
    assert_eq!(grid.breaks(), expected);
}

#[test]
fn few_distinct_samples_give_an_even_grid_around_them() {
    for (samples, lo, hi) in [
        (&[][..], -1.0, 1.0),
        (&[f64::NAN, f64::INFINITY][..], -1.0, 1.0),
        (&[3.5][..], 2.5, 4.5),
        (&[-2.0; 9][..], -3.0, -1.0),
    ] {
        let grid = Grid::from_samples(3, samples, 5, 0.02, 0.1);
        assert!(grid.is_uniform());
        assert_eq!((grid.lo(), grid.hi(), grid.intervals()), (lo, hi, 5));
    }
}

/// Whether a grid is fit for use: its knots increase and its basis functions are finite and sum to
/// one everywhere.
fn is_sound(grid: &Grid) -> bool {
    let knots = grid.knots();
    let increasing = knots.windows(2).all(|pair| pair[0] < pair[1]);
    let finite = knots.iter().all(|knot| knot.is_finite());
    let sound = |x: f64| {
        let sum: f64 = grid.local(x).value.iter().sum();
        (sum - 1.0).abs() <= 1e-6
    };
    increasing && finite && points(grid).into_iter().all(sound)
}

#[test]
fn no_samples_make_a_bad_grid() {
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    for case in 0..3000 {
        let scale = [1.0, 1e-12, 1e-300, 1e12, 1e100, 1e300, f64::MAX][rng.random_range(0..7)];
        let offset = [0.0, 0.0, 1.0, -1e3, 1e9, 1e17, 1e300][rng.random_range(0..7)];
        let distinct = [1, 1, 2, 3, 20, 300][rng.random_range(0..6)];
        let pool: Vec<f64> = (0..distinct)
            .map(|_| offset + scale * rng.random_range(-1.0..1.0_f64))
            .collect();
        let mut samples: Vec<f64> = (0..rng.random_range(0..400))
            .map(|_| pool[rng.random_range(0..distinct)])
            .collect();
        if rng.random_bool(0.3) {
            samples.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0]);
        }
        if rng.random_bool(0.3) {
            // A crowd in one place and a stray sample.
            samples.extend((0..100).map(|k| offset + scale * 1e-9 * f64::from(k)));
        }
        let degree = rng.random_range(1..=MAX_DEGREE);
        let intervals = rng.random_range(1..100);
        let grid_eps = [0.0, 0.02, 0.5, 1.0, -1.0, 2.0, f64::NAN][rng.random_range(0..7)];
        let margin = [0.0, 0.02, 1.0][rng.random_range(0..3)];
        let grid = Grid::from_samples(degree, &samples, intervals, grid_eps, margin);
        let told = format!(
            "case {case}: {} samples at {offset} ± {scale}: {grid:?}",
            samples.len()
        );
        assert_eq!(
            (grid.degree(), grid.intervals()),
            (degree, intervals),
            "{told}"
        );
        assert!(is_sound(&grid), "{told}");
        // No interval is below a hundredth of the mean; the samples are on the grid, but those
        // whose distances are beyond f64.
        let mean = (grid.hi() - grid.lo()) / intervals as f64;
        assert!(narrowest(&grid) >= 0.0099 * mean, "{told}");
        for x in samples.into_iter().filter(|x| x.abs() <= 1e300) {
            let slack = 1e-9 * x.abs();
            assert!(
                grid.lo() <= x + slack && x <= grid.hi() + slack,
                "{told}: {x} is outside"
            );
        }
    }
}

#[test]
fn grids_that_cannot_be_are_refused() {
    for degree in [0, MAX_DEGREE + 1, usize::MAX] {
        assert_eq!(
            Grid::new(degree, &[0.0, 1.0]),
            Err(GridError::Degree(degree))
        );
    }
    let tiny = f64::from_bits(1);
    for breaks in [
        &[][..],
        &[0.0],
        &[0.0, 0.0],
        &[1.0, 0.0],
        &[0.0, 1.0, 1.0, 2.0],
        &[0.0, 2.0, 1.0],
        &[0.0, f64::NAN],
        &[f64::NAN, 0.0],
        &[0.0, f64::NAN, 1.0],
        &[0.0, f64::INFINITY],
        &[f64::NEG_INFINITY, 0.0],
    ] {
        assert_eq!(Grid::new(3, breaks), Err(GridError::Breaks), "{breaks:?}");
    }
    // Breaks that increase, but so far apart or so close that the arithmetic on them does not hold:
    // refused, or sound.
    for breaks in [
        &[-f64::MAX, f64::MAX][..],
        &[0.0, f64::MAX],
        &[0.0, tiny],
        &[0.0, tiny, 1.0],
        &[1.0, 1.0 + f64::EPSILON],
        &[2.0 - f64::EPSILON, 2.0],
        &[0.0, 1e-320, 2e-320],
    ] {
        for degree in 1..=MAX_DEGREE {
            if let Ok(grid) = Grid::new(degree, breaks) {
                assert!(is_sound(&grid), "{grid:?}");
            }
        }
    }
}

#[test]
fn grids_survive_json_bit_for_bit_and_bad_json_is_refused() {
    for grid in grids() {
        let json = serde_json::to_string(&grid).unwrap();
        let again: Grid = serde_json::from_str(&json).unwrap();
        assert_eq!(again, grid);
        for x in points(&grid) {
            assert_eq!(again.local(x).value, grid.local(x).value);
        }
    }
    for (json, fault) in [
        (r#"{"degree":3,"breaks":[0,0]}"#, "increasing"),
        (r#"{"degree":3,"breaks":[]}"#, "two breaks"),
        (r#"{"degree":9,"breaks":[0,1]}"#, "not 9"),
        (r#"{"degree":3,"breaks":[0,null]}"#, "null"),
        (r#"{"breaks":[0,1]}"#, "degree"),
    ] {
        let error = serde_json::from_str::<Grid>(json).unwrap_err().to_string();
        assert!(error.contains(fault), "{json}: {error}");
    }
}

#[test]
fn arguments_that_are_no_numbers_are_no_danger() {
    let mut rng = Pcg64Mcg::seed_from_u64(6);
    for grid in grids() {
        assert_eq!(grid.clamp(f64::NAN), grid.lo());
        assert_eq!(grid.clamp(f64::NEG_INFINITY), grid.lo());
        assert_eq!(grid.clamp(f64::INFINITY), grid.hi());
        let coef = coefficients(&mut rng, &grid);
        for x in [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MAX,
            f64::MIN,
            -0.0,
        ] {
            let last = grid.intervals() - 1;
            assert!(grid.local(x).first <= last && grid.curvature(x).0 <= last);
            let _ = grid.eval(&coef, x);
        }
        assert!(grid.eval(&coef, f64::NAN).is_nan(), "a NaN is not hidden");
    }
}

#[test]
fn gram_matrices_are_the_integrals_of_products() {
    let mut rng = Pcg64Mcg::seed_from_u64(7);
    for degree in 1..=MAX_DEGREE {
        for grid in [
            Grid::uniform(degree, -1.0, 1.0, 4),
            Grid::uniform(degree, 0.0, 1e-3, 1),
            irregular(&mut rng, degree, -2.0, 3.0, 6),
        ] {
            let textbook = Textbook::new(&grid);
            let n = grid.functions();
            let (lo, range) = (grid.lo(), grid.hi() - grid.lo());
            for order in [1, 2] {
                let extra = |x: f64| 1.0 - (x - lo) / range;
                let function = |i: usize, x: f64| match (i == n, order, degree) {
                    (true, ..) => extra(x),
                    (_, 1, _) => textbook.slope(i, x),
                    (_, _, 1) => 0.0,
                    _ => textbook.curvature(i, x),
                };
                let gram = grid.gram(order, extra);
                assert_eq!(gram.len(), (n + 1) * (n + 1));
                for i in 0..=n {
                    for j in 0..=n {
                        let at = gram[i * (n + 1) + j];
                        let mut exact = match (degree, order) {
                            (1, 2) => corners(&grid, i, j),
                            _ => 0.0,
                        };
                        let mut size = exact.abs();
                        for pair in grid.breaks().windows(2) {
                            // Inside the interval, where each piece is one polynomial.
                            let (a, b) = (pair[0], pair[1]);
                            let f = |x: f64| function(i, x) * function(j, x);
                            let inner = |x: f64| x.clamp(a, b - 1e-14 * (b - a).max(a.abs()));
                            exact += romberg(4, a, b, |x| f(inner(x)));
                            size += romberg(4, a, b, |x| f(inner(x)).abs());
                        }
                        // Products of degree 8 at most: Romberg's fourth row is exact. Rounding:
                        // the slopes' and curvatures', and a hundred terms.
                        let steep = (2.0 / narrowest(&grid)).powi(order as i32);
                        let peak = match (i == n, j == n) {
                            (true, true) => 1.0,
                            (false, false) => steep * steep,
                            _ => steep,
                        };
                        let bound = 100.0 * f64::EPSILON * size
                            + 64.0 * degree as f64 * f64::EPSILON * peak * range;
                        assert!(
                            (at - exact).abs() <= bound,
                            "{grid:?}, order {order}, ({i}, {j}): {at}, not {exact}"
                        );
                        assert!((at - gram[j * (n + 1) + i]).abs() <= bound, "symmetry");
                    }
                }
            }
        }
    }
}

/// What the corners of two hats add to ∫ f_i″ f_j″: at each break the product of the jumps of their
/// slopes, over the width between the middles of the intervals beside it.
fn corners(grid: &Grid, i: usize, j: usize) -> f64 {
    let breaks = grid.breaks();
    let hat = |m: usize, at: usize| f64::from(u8::from(m == at));
    (1..breaks.len() - 1)
        .map(|at| {
            let jump = |m: usize| {
                let slope = |a: usize| (hat(m, a + 1) - hat(m, a)) / (breaks[a + 1] - breaks[a]);
                slope(at) - slope(at - 1)
            };
            jump(i) * jump(j) / (0.5 * (breaks[at + 1] - breaks[at - 1]))
        })
        .sum()
}

#[test]
fn bending_of_a_parabola_and_tilt_of_a_line_have_closed_forms() {
    for degree in 2..=MAX_DEGREE {
        let grid = Grid::new(degree, &[-1.0, -0.7, 0.2, 0.5, 3.0]).unwrap();
        let fit = Fit::new(&grid);
        let form = |gram: &[f64], c: &[f64]| -> f64 {
            let n = c.len() + 1;
            let pairs = (0..c.len()).flat_map(|i| (0..c.len()).map(move |j| (i, j)));
            pairs.map(|(i, j)| c[i] * c[j] * gram[i * n + j]).sum()
        };
        // ∫ (x²)″² = 4·4; ∫ (2x)′² = 4·4; the fit's rounding is magnified twice by 1/h².
        let bound = 1e3 * fit_rounding(degree);
        let parabola = fit.fit(|x| x * x);
        assert!((form(&grid.gram(2, |_| 0.0), &parabola) - 16.0).abs() <= bound);
        let line = fit.fit(|x| 2.0 * x);
        assert!((form(&grid.gram(1, |_| 0.0), &line) - 16.0).abs() <= bound);
        assert!(form(&grid.gram(2, |_| 0.0), &line).abs() <= bound);
    }
}
