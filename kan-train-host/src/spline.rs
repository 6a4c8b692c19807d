//! B-splines of degree 1 to 5 on any increasing grid.
//!
//! A grid of `G` intervals has `G + 1` breaks; its knot vector is extended by `degree` knots of the
//! mean spacing on each side, which gives `G + degree` basis functions (KAN paper, section 2.2).
//! Outside its grid a spline goes on linearly, with the value and slope it has at the end.

use serde::{Deserialize, Serialize};

/// The highest degree of a spline.
pub const MAX_DEGREE: usize = 5;
/// The most basis functions that are not zero at one point.
pub const MAX_ORDER: usize = MAX_DEGREE + 1;

/// Why a grid cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GridError {
    /// The degree is outside 1 to 5.
    #[error("a spline's degree is 1 to {MAX_DEGREE}, not {0}")]
    Degree(usize),
    /// Fewer than two breaks, or breaks that do not increase, are not finite, or stand so close or
    /// so far apart that the distances of the knots are no ordinary numbers.
    #[error("a grid needs at least two breaks, finite and increasing")]
    Breaks,
}

/// A grid: the degree and the knots that all edges leaving one node share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "GridRecord", into = "GridRecord")]
pub struct Grid {
    degree: usize,
    /// `G + 2·degree + 1` knots; the grid proper is `knots[degree..=degree + G]`.
    knots: Vec<f64>,
    /// 1/h on a uniform grid: intervals are then found without a search.
    inv_step: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct GridRecord {
    degree: usize,
    breaks: Vec<f64>,
}

impl TryFrom<GridRecord> for Grid {
    type Error = GridError;
    fn try_from(record: GridRecord) -> Result<Self, GridError> {
        Grid::new(record.degree, &record.breaks)
    }
}

impl From<Grid> for GridRecord {
    fn from(grid: Grid) -> Self {
        GridRecord {
            degree: grid.degree,
            breaks: grid.breaks().to_vec(),
        }
    }
}

/// The basis functions that are not zero at one point: numbers `first ..= first + degree`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local {
    /// The number of the first of them.
    pub first: usize,
    /// Their values; entries above the degree are zero.
    pub value: [f64; MAX_ORDER],
    /// Their first derivatives.
    pub slope: [f64; MAX_ORDER],
}

impl Grid {
    /// A grid with these breaks, the ends of its intervals in increasing order.
    pub fn new(degree: usize, breaks: &[f64]) -> Result<Self, GridError> {
        if degree == 0 || degree > MAX_DEGREE {
            return Err(GridError::Degree(degree));
        }
        if breaks.len() < 2 {
            return Err(GridError::Breaks);
        }
        let intervals = breaks.len() - 1;
        let (lo, hi) = (breaks[0], breaks[intervals]);
        let step = (hi - lo) / intervals as f64;
        let knots: Vec<f64> = (1..=degree)
            .rev()
            .map(|k| lo - k as f64 * step)
            .chain(breaks.iter().copied())
            .chain((1..=degree).map(|k| hi + k as f64 * step))
            .collect();
        // The outer knots too: breaks next to each other in f64 leave no room for them.
        let apart = |below: f64, above: f64| above > below && (above - below).is_normal();
        let last = knots.len() - 1;
        if !knots.windows(2).all(|pair| apart(pair[0], pair[1])) || !apart(knots[0], knots[last]) {
            return Err(GridError::Breaks);
        }
        let uniform = breaks
            .iter()
            .enumerate()
            .all(|(k, &knot)| (knot - (lo + k as f64 * step)).abs() <= 1e-9 * step);
        Ok(Self {
            degree,
            knots,
            inv_step: uniform.then(|| step.recip()),
        })
    }

    /// A uniform grid of `intervals` on `lo..hi`.
    ///
    /// # Panics
    /// If `lo < hi` does not hold, or the degree is not 1 to 5: callers check their input first.
    pub fn uniform(degree: usize, lo: f64, hi: f64, intervals: usize) -> Self {
        Self::even(degree, lo, hi, intervals).expect("a uniform grid on a proper range")
    }

    fn even(degree: usize, lo: f64, hi: f64, intervals: usize) -> Result<Self, GridError> {
        let step = (hi - lo) / intervals as f64;
        let mut breaks: Vec<f64> = (0..=intervals).map(|k| lo + k as f64 * step).collect();
        breaks[intervals] = hi;
        Self::new(degree, &breaks)
    }

    /// A grid that follows the samples: their quantiles blended with the uniform grid on their
    /// range, `grid_eps · uniform + (1 − grid_eps) · quantiles` (the paper's and pykan's rule),
    /// with `margin` times the range added at both ends.
    ///
    /// Repeated values take part once, and the blend keeps at least a hundredth of the uniform
    /// spacing, so that no knot repeats; fewer than two distinct samples give the uniform grid on
    /// a range of 2 around them (2e-6 of their size, if they are beyond 1e6). Samples that are not
    /// finite, or beyond 1e300, take no part.
    pub fn from_samples(
        degree: usize,
        samples: &[f64],
        intervals: usize,
        grid_eps: f64,
        margin: f64,
    ) -> Self {
        let mut sorted: Vec<f64> = samples
            .iter()
            .copied()
            .filter(|x| x.abs() <= 1e300)
            .collect();
        sorted.sort_by(f64::total_cmp);
        sorted.dedup();
        let (lo, hi) = match (sorted.first(), sorted.last()) {
            (Some(&lo), Some(&hi)) if hi - lo > 1e-9 * lo.abs().max(hi.abs()).max(1e-9) => {
                (lo - margin * (hi - lo), hi + margin * (hi - lo))
            }
            (Some(&lo), _) => {
                let half = f64::max(1.0, 1e-6 * lo.abs());
                return Self::uniform(degree, lo - half, lo + half, intervals);
            }
            (None, _) => return Self::uniform(degree, -1.0, 1.0, intervals),
        };
        let eps = grid_eps.clamp(0.01, 1.0);
        if eps == 1.0 {
            return Self::uniform(degree, lo, hi, intervals);
        }
        let last = (sorted.len() - 1) as f64;
        let breaks: Vec<f64> = (0..=intervals)
            .map(|k| {
                let part = k as f64 / intervals as f64;
                let place = part * last;
                let below = place as usize;
                let above = (below + 1).min(sorted.len() - 1);
                let inner =
                    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below]);
                let quantile = match k {
                    0 => lo,
                    _ if k == intervals => hi,
                    _ => inner,
                };
                eps * (lo + part * (hi - lo)) + (1.0 - eps) * quantile
            })
            .collect();
        Self::new(degree, &breaks).unwrap_or_else(|_| Self::uniform(degree, lo, hi, intervals))
    }

    /// The same range and degree with `intervals` intervals; every interval of `self` is divided
    /// evenly where `intervals` is a multiple, so that the old knots stay. The same grid where
    /// breaks next to each other in `f64` leave no room for more.
    pub fn with_intervals(&self, intervals: usize) -> Self {
        if self.inv_step.is_some() {
            return Self::even(self.degree, self.lo(), self.hi(), intervals)
                .unwrap_or_else(|_| self.clone());
        }
        // The old breaks as a piecewise linear map from even spacing.
        let old = self.breaks();
        let breaks: Vec<f64> = (0..=intervals)
            .map(|k| {
                let place = (k * self.intervals()) as f64 / intervals as f64;
                let below = (place as usize).min(self.intervals() - 1);
                old[below] + (place - below as f64) * (old[below + 1] - old[below])
            })
            .collect();
        Self::new(self.degree, &breaks).unwrap_or_else(|_| self.clone())
    }

    /// The same spacing on another range.
    pub fn stretched(&self, lo: f64, hi: f64) -> Result<Self, GridError> {
        let factor = (hi - lo) / (self.hi() - self.lo());
        let mut breaks: Vec<f64> = self
            .breaks()
            .iter()
            .map(|x| lo + (x - self.lo()) * factor)
            .collect();
        if let Some(last) = breaks.last_mut() {
            *last = hi;
        }
        Self::new(self.degree, &breaks)
    }

    /// The spline degree k.
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// The number of intervals G.
    pub fn intervals(&self) -> usize {
        self.knots.len() - 2 * self.degree - 1
    }

    /// The number of basis functions, G + k.
    pub fn functions(&self) -> usize {
        self.intervals() + self.degree
    }

    /// The ends of the intervals, `G + 1` increasing numbers.
    pub fn breaks(&self) -> &[f64] {
        &self.knots[self.degree..self.knots.len() - self.degree]
    }

    /// All knots, with the `degree` outer ones on each side.
    pub fn knots(&self) -> &[f64] {
        &self.knots
    }

    /// The lower end of the grid.
    pub fn lo(&self) -> f64 {
        self.knots[self.degree]
    }

    /// The upper end of the grid.
    pub fn hi(&self) -> f64 {
        self.knots[self.knots.len() - 1 - self.degree]
    }

    /// Whether all intervals have the same length.
    pub fn is_uniform(&self) -> bool {
        self.inv_step.is_some()
    }

    /// `x`, or the end of the grid that it lies beyond; the lower end for NaN.
    #[inline]
    pub fn clamp(&self, x: f64) -> f64 {
        let x = if x > self.lo() { x } else { self.lo() };
        if x < self.hi() { x } else { self.hi() }
    }

    /// The interval that holds `x` after clamping, `0 .. G`.
    #[inline]
    fn interval(&self, clamped: f64) -> usize {
        let last = self.intervals() - 1;
        match self.inv_step {
            Some(inv_step) => (((clamped - self.lo()) * inv_step) as usize).min(last),
            None => self.breaks()[1..]
                .partition_point(|&knot| knot <= clamped)
                .min(last),
        }
    }

    /// Values and slopes of the basis functions that are not zero at `x`, in O(k²) by the
    /// Cox–de Boor recurrence; linear outside the grid.
    #[inline]
    pub fn local(&self, x: f64) -> Local {
        let k = self.degree;
        let clamped = self.clamp(x);
        let first = self.interval(clamped);
        let mut local = Local {
            first,
            ..Local::default()
        };
        let mut left = [0.0; MAX_ORDER];
        let mut right = [0.0; MAX_ORDER];
        // 1/(right[r + 1] + left[d − r]); on a uniform grid, in units of its step, that is 1/d.
        const INVERSE: [f64; MAX_ORDER] = [0.0, 1.0, 0.5, 1.0 / 3.0, 0.25, 0.2];
        let slope_scale = match self.inv_step {
            Some(inv_step) => {
                let u = (clamped - self.knots[first + k]) * inv_step;
                for d in 1..=k {
                    left[d] = u + (d - 1) as f64;
                    right[d] = d as f64 - u;
                }
                inv_step
            }
            None => {
                for d in 1..=k {
                    left[d] = clamped - self.knots[first + k + 1 - d];
                    right[d] = self.knots[first + k + d] - clamped;
                }
                1.0
            }
        };
        let uniform = self.inv_step.is_some();
        local.value[0] = 1.0;
        for d in 1..=k {
            let mut saved = 0.0;
            let mut slope_saved = 0.0;
            for r in 0..d {
                let inverse = if uniform {
                    INVERSE[d]
                } else {
                    (right[r + 1] + left[d - r]).recip()
                };
                let term = local.value[r] * inverse;
                if d == k {
                    let q = k as f64 * term * slope_scale;
                    local.slope[r] = slope_saved - q;
                    slope_saved = q;
                }
                local.value[r] = saved + right[r + 1] * term;
                saved = left[d - r] * term;
            }
            local.value[d] = saved;
            if d == k {
                local.slope[k] = slope_saved;
            }
        }
        let beyond = x - clamped;
        if beyond != 0.0 {
            for r in 0..=k {
                local.value[r] += beyond * local.slope[r];
            }
        }
        local
    }

    /// Second derivatives of the basis functions in the interval of `x` (of its right-hand interval
    /// at a knot), as first function and values; zero outside the grid, where a spline is linear.
    pub fn curvature(&self, x: f64) -> (usize, [f64; MAX_ORDER]) {
        let k = self.degree;
        let clamped = self.clamp(x);
        let first = self.interval(clamped);
        let mut curvature = [0.0; MAX_ORDER];
        if k < 2 || clamped != x {
            return (first, curvature);
        }
        for r in 0..=k {
            let mut unit = [0.0; MAX_ORDER];
            unit[r] = 1.0;
            // Differentiate the coefficients twice, then evaluate the degree k − 2 spline.
            for lowered in 0..2 {
                let d = k - lowered;
                for s in (lowered + 1..=k).rev() {
                    let width = self.knots[first + s + d] - self.knots[first + s];
                    unit[s] = d as f64 * (unit[s] - unit[s - 1]) / width;
                }
            }
            curvature[r] = self.de_boor(first, 2, &mut unit, |_| clamped);
        }
        (first, curvature)
    }

    /// The triangle of de Boor from level `skip` on, over the `degree + 1 − skip` coefficients
    /// `d[skip..]` of one interval, with argument `at(s)` at step `s`: a value if all arguments are
    /// equal, the blossom (polar form) if they differ.
    fn de_boor(
        &self,
        first: usize,
        skip: usize,
        d: &mut [f64; MAX_ORDER],
        at: impl Fn(usize) -> f64,
    ) -> f64 {
        let k = self.degree;
        for s in skip + 1..=k {
            for r in (s..=k).rev() {
                let below = self.knots[first + r];
                let above = self.knots[first + r + 1 + k - s];
                let alpha = (at(s - skip - 1) - below) / (above - below);
                d[r] = (1.0 - alpha) * d[r - 1] + alpha * d[r];
            }
        }
        d[k]
    }

    /// Σ c_i B_i(x), shape of `coef`: `[G + k]`.
    pub fn eval(&self, coef: &[f64], x: f64) -> f64 {
        let local = self.local(x);
        coef[local.first..=local.first + self.degree]
            .iter()
            .zip(&local.value)
            .map(|(c, b)| c * b)
            .sum()
    }

    /// Whether every spline on `self` is one on `finer` too: the same ends, and every break of
    /// `self` among its breaks.
    pub fn nested_in(&self, finer: &Grid) -> bool {
        let tolerance = 1e-12 * (self.hi() - self.lo());
        let fine = finer.breaks();
        let found = |knot: f64| {
            let at = fine.partition_point(|&x| x < knot - tolerance);
            fine.get(at).is_some_and(|&x| (x - knot).abs() <= tolerance)
        };
        self.degree == finer.degree
            && (self.lo() - finer.lo()).abs() <= tolerance
            && (self.hi() - finer.hi()).abs() <= tolerance
            && self.breaks().iter().all(|&knot| found(knot))
    }

    /// The linear map from coefficients on `self` to coefficients on `target`: grid extension
    /// (2.16). Exact where the grids are nested (knot insertion), else the least-squares fit.
    pub fn refit<'a>(&'a self, target: &'a Grid) -> Refit<'a> {
        if self.nested_in(target) {
            return Refit::Insert {
                from: self,
                to: target,
            };
        }
        Refit::Fit {
            from: self,
            fit: Fit::new(target),
        }
    }

    /// Gram matrix ∫ f_i⁽ᵒ⁾ f_j⁽ᵒ⁾ dx over the grid of the derivatives of order `order` (1 or 2) of
    /// the basis functions and, last, of one more function given by that derivative. Row-major,
    /// `(G + k + 1)²`; exact for the splines. The second derivative of a polygon (degree 1) is taken
    /// as the jump of its slope at each break, spread over the interval around it.
    pub fn gram(&self, order: usize, extra: impl Fn(f64) -> f64) -> Vec<f64> {
        let n = self.functions() + 1;
        let mut gram = vec![0.0; n * n];
        for pair in self.breaks().windows(2) {
            for (place, weight) in gauss(pair[0], pair[1]) {
                let (first, derivative) = match order {
                    1 => {
                        let local = self.local(place);
                        (local.first, local.slope)
                    }
                    _ => self.curvature(place),
                };
                let last = std::iter::once((n - 1, extra(place)));
                let entries: Vec<(usize, f64)> = (first..=first + self.degree)
                    .zip(derivative)
                    .chain(last)
                    .collect();
                for &(i, a) in &entries {
                    for &(j, b) in &entries {
                        gram[i * n + j] += weight * a * b;
                    }
                }
            }
        }
        if order == 2 && self.degree == 1 {
            for (first, jumps) in self.jumps() {
                for (i, a) in jumps[..3].iter().enumerate() {
                    for (j, b) in jumps[..3].iter().enumerate() {
                        gram[(first + i) * n + first + j] += a * b;
                    }
                }
            }
        }
        gram
    }

    /// For each inner break the first of the k + 2 B-splines whose k-th derivative jumps there, and
    /// those jumps over √w, w the mean of the intervals beside. The sum of the squares of a
    /// spline's jumps is for it what ∫ (f⁽ᵏ⁺¹⁾)² is for a smooth function.
    pub fn jumps(&self) -> impl Iterator<Item = (usize, [f64; MAX_ORDER + 1])> {
        let k = self.degree;
        // Each B-spline is a divided difference of (t − x)₊ᵏ over its own knots.
        let factorial = (1..=k).fold(-1.0, |product, f| -product * f as f64);
        (k + 1..self.knots.len() - k - 1).map(move |at| {
            let first = at - k - 1;
            let width = 0.5 * (self.knots[at + 1] - self.knots[at - 1]);
            let mut jumps = [0.0; MAX_ORDER + 1];
            for (jump, i) in jumps.iter_mut().zip(first..=at) {
                let own = &self.knots[i..=i + k + 1];
                let others = (i..=i + k + 1).filter(|&other| other != at);
                let product: f64 = others.map(|t| self.knots[at] - self.knots[t]).product();
                *jump = factorial * (own[k + 1] - own[0]) / (product * width.sqrt());
            }
            (first, jumps)
        })
    }

    /// For points of a quadrature the first of the k + 1 B-splines that are not zero there, their
    /// second derivatives, and that of one more function, all times the root of the point's weight:
    /// the sum of the squares of a spline's values is ∫ (f″)².
    pub fn bends(
        &self,
        extra: impl Fn(f64) -> f64,
    ) -> impl Iterator<Item = (usize, [f64; MAX_ORDER], f64)> {
        let points = self
            .breaks()
            .windows(2)
            .flat_map(|pair| gauss(pair[0], pair[1]));
        points.map(move |(place, weight)| {
            let (first, curvature) = self.curvature(place);
            let root = weight.sqrt();
            (first, curvature.map(|c| c * root), extra(place) * root)
        })
    }
}

/// Gauss–Legendre points and weights on `lo..hi`, exact to degree 9: all products of two slopes of
/// quintics.
fn gauss(lo: f64, hi: f64) -> [(f64, f64); 5] {
    const OUTER: (f64, f64) = (0.906_179_845_938_664, 0.236_926_885_056_189_08);
    const INNER: (f64, f64) = (0.538_469_310_105_683_1, 0.478_628_670_499_366_47);
    const MIDDLE: (f64, f64) = (0.0, 0.568_888_888_888_888_9);
    let (mid, half) = (0.5 * (lo + hi), 0.5 * (hi - lo));
    let at = |sign: f64, (node, weight): (f64, f64)| (mid + sign * half * node, half * weight);
    [
        at(-1.0, OUTER),
        at(-1.0, INNER),
        at(1.0, MIDDLE),
        at(1.0, INNER),
        at(1.0, OUTER),
    ]
}

/// Least-squares fits of any function by splines on one grid, at points spread over every interval
/// rather than at samples: an interval without samples cannot make it singular.
pub struct Fit<'a> {
    grid: &'a Grid,
    /// Places, their basis functions, and their weights.
    points: Vec<(f64, Local, f64)>,
    /// The Cholesky factor of the normal equations by row, its diagonal last. They are banded,
    /// which faer does not use: so this takes O(G·k²) in place of O(G³).
    factor: Vec<[f64; MAX_ORDER]>,
}

impl<'a> Fit<'a> {
    /// Factorises the normal equations of the grid.
    pub fn new(grid: &'a Grid) -> Self {
        Self::weighted(grid, |_| 1.0)
    }

    /// The same, with points that count for as much as `weight`, which is positive.
    pub fn weighted(grid: &'a Grid, weight: impl Fn(f64) -> f64) -> Self {
        let k = grid.degree;
        let per_interval = k + 3;
        let mut points = Vec::with_capacity(grid.intervals() * per_interval + 1);
        for pair in grid.breaks().windows(2) {
            for s in 0..per_interval {
                let x = pair[0] + (pair[1] - pair[0]) * s as f64 / per_interval as f64;
                points.push((x, grid.local(x), weight(x)));
            }
        }
        points.push((grid.hi(), grid.local(grid.hi()), weight(grid.hi())));
        // Entry (i, i − k + r) of the normal matrix, then of its factor, at [i][r].
        let mut factor = vec![[0.0; MAX_ORDER]; grid.functions()];
        for (_, local, weight) in &points {
            for a in 0..=k {
                for b in 0..=a {
                    factor[local.first + a][k + b - a] += weight * local.value[a] * local.value[b];
                }
            }
        }
        // The points satisfy Schoenberg–Whitney in every interval: positive definite.
        for i in 0..factor.len() {
            for r in k.saturating_sub(i)..=k {
                let column = i + r - k;
                let known: f64 = (k.saturating_sub(i)..r)
                    .filter(|s| s + k >= r)
                    .map(|s| factor[i][s] * factor[column][s + k - r])
                    .sum();
                let rest = factor[i][r] - known;
                factor[i][r] = if r == k {
                    rest.sqrt()
                } else {
                    rest / factor[column][k]
                };
            }
        }
        Self {
            grid,
            points,
            factor,
        }
    }

    /// The coefficients of the spline nearest to `f`.
    pub fn fit(&self, f: impl Fn(f64) -> f64) -> Vec<f64> {
        let k = self.grid.degree;
        let mut solution = vec![0.0; self.grid.functions()];
        for (x, local, weight) in &self.points {
            let y = weight * f(*x);
            for r in 0..=k {
                solution[local.first + r] += y * local.value[r];
            }
        }
        for (i, row) in self.factor.iter().enumerate() {
            for r in k.saturating_sub(i)..k {
                solution[i] -= row[r] * solution[i + r - k];
            }
            solution[i] /= row[k];
        }
        for (i, row) in self.factor.iter().enumerate().rev() {
            solution[i] /= row[k];
            for r in k.saturating_sub(i)..k {
                solution[i + r - k] -= row[r] * solution[i];
            }
        }
        solution
    }
}

/// A prepared change of grid; see [`Grid::refit`].
pub enum Refit<'a> {
    /// Knot insertion.
    Insert {
        /// The grid of the old coefficients.
        from: &'a Grid,
        /// The finer grid.
        to: &'a Grid,
    },
    /// Least squares.
    Fit {
        /// The grid of the old coefficients.
        from: &'a Grid,
        /// The factorised fit on the new grid.
        fit: Fit<'a>,
    },
}

impl Refit<'_> {
    /// The new coefficients for `coef`.
    pub fn apply(&self, coef: &[f64]) -> Vec<f64> {
        match self {
            Refit::Insert { from, to } => insert(from, coef, to),
            Refit::Fit { from, fit } => fit.fit(|x| from.eval(coef, x)),
        }
    }
}

/// Knot insertion by blossoming: coefficient j of a spline is the blossom, at the knots
/// j + 1 … j + k of its basis function, of any polynomial piece under that function. Unlike the
/// Oslo algorithm this needs no nesting of the outer knots, which differ between uniform grids.
fn insert(from: &Grid, coef: &[f64], to: &Grid) -> Vec<f64> {
    let k = from.degree;
    (0..to.functions())
        .map(|j| {
            // The middle interval of the function's support, inside the grid.
            let interval = (j.saturating_sub(k / 2))
                .min(to.intervals() - 1)
                .max(j.saturating_sub(k));
            let breaks = to.breaks();
            let first = from.interval(0.5 * (breaks[interval] + breaks[interval + 1]));
            let mut d = [0.0; MAX_ORDER];
            d[..=k].copy_from_slice(&coef[first..=first + k]);
            from.de_boor(first, 0, &mut d, |s| to.knots[j + 1 + s])
        })
        .collect()
}
