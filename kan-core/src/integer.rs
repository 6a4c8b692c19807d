//! Layers of integer tables: their checks, and their evaluation without a float.

use crate::blob::{ALL_NODES, IntegerNode, LoadError};
use crate::kernel;
#[cfg(kan_integers)]
use crate::kernel::Plan;
#[cfg(not(kan_integers))]
use crate::kernel::{Place, Slot};
use crate::kinds;

/// The sum of weights, as magnitudes: 1 in Q15, and 2 of slack. (None of them is negative.)
const CUBIC_WEIGHTS: u32 = 32_770;

/// The weight of a coefficient of degree 0, and of both of degree 1 together: 1 in Q14.
const LINEAR_WEIGHTS: u32 = 16_384;

/// The largest sum of coefficients' magnitudes in a layer of degree 1 or 0: kernels add several
/// such sums in one register, 16 bits each.
const LARGEST_PACKED: u32 = 32_767;

/// The largest of a layer of degree 3: ⌊(2³¹ − 1) / 32 772⌋, as if the slack were 4. It is less
/// than 2¹⁶, so that the product with the weights fits 32 bits.
const LARGEST_SUM: u32 = 65_527;

/// A coefficient.
pub(crate) trait Entry: Copy + Into<i32> {
    /// So many fill four bytes.
    const PER_WORD: usize = 4 / size_of::<Self>();
    /// The kinds of these coefficients.
    const STEP: u16;
    const LINEAR: u16;
    const CUBIC: u16;
}

impl Entry for i16 {
    const STEP: u16 = kinds::STEP_I16;
    const LINEAR: u16 = kinds::LINEAR_I16;
    const CUBIC: u16 = kinds::CUBIC_I16;
}

impl Entry for i8 {
    const STEP: u16 = kinds::STEP_I8;
    const LINEAR: u16 = kinds::LINEAR_I8;
    const CUBIC: u16 = kinds::CUBIC_I8;
}

/// The tables of one layer.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'m, T> {
    /// 3, 1 or 0.
    pub degree: usize,
    pub nodes: &'m [[u32; 4]],
    pub bias: &'m [i32],
    /// Groups one after the other: [outputs, members], [rows, rows / 65536], then for each member
    /// [node, rows skipped].
    pub groups: &'m [[u16; 2]],
    pub coefficients: &'m [T],
    /// How far differences from a grid's left end are shifted to the left.
    pub shift: u32,
}

/// Outputs that are fed by the same nodes.
struct Group<'m> {
    outputs: usize,
    /// Rows of coefficients of all members together.
    rows: usize,
    /// [node, rows of nodes before it that are no members]; `None` for all nodes.
    members: Option<&'m [[u16; 2]]>,
}

impl Group<'_> {
    /// Number of members, in a layer of so many nodes.
    fn count(&self, nodes: usize) -> usize {
        self.members.map_or(nodes, <[_]>::len)
    }

    /// Member `k`: its node, and the rows of nodes before it that are no members.
    fn member(&self, k: usize) -> Option<(usize, usize)> {
        let Some(members) = self.members else {
            return Some((k, 0));
        };
        let &[node, skipped] = members.get(k)?;
        Some((node.into(), skipped.into()))
    }
}

/// Takes the first group.
fn next_group<'m>(groups: &mut &'m [[u16; 2]]) -> Option<Group<'m>> {
    let ([[outputs, members], [low, high]], rest) = groups.split_first_chunk()?;
    *groups = rest;
    Some(Group {
        outputs: usize::from(*outputs),
        rows: usize::from(*low) | usize::from(*high) << 16,
        members: match *members {
            ALL_NODES => None,
            count => Some(groups.split_off(..usize::from(count))?),
        },
    })
}

/// Outputs that a kernel computes together where `left` are left.
pub(crate) fn block(left: usize) -> usize {
    match left {
        4.. => 4,
        2.. => 2,
        _ => left,
    }
}

impl IntegerNode {
    /// Checks the grid.
    fn check(&self, shift: u32) -> Result<(), LoadError> {
        let fits = self.width <= i32::MAX as u32 >> shift
            // Both ends can be told from saturated inputs.
            && self.hi > i32::MIN + self.width as i32
            && self.hi < i32::MAX;
        if fits {
            Ok(())
        } else {
            Err(LoadError::Overflow)
        }
    }
}

impl<'m, T: Entry> Tables<'m, T> {
    /// Checks the tables, so that evaluation is total and no sum can overflow.
    pub fn check(&self) -> Result<(), LoadError> {
        let malformed = LoadError::Malformed;
        let mut first: u32 = 0;
        for &words in self.nodes {
            let node = IntegerNode::unpack(words);
            if node.first != first {
                return Err(malformed);
            }
            node.check(self.shift)?;
            // A position within the node is less than `rows << 15`.
            let positions = (self.rows(&node) as u32) << 15;
            first = first.checked_add(positions).ok_or(LoadError::Overflow)?;
        }
        let (mut bias, mut coefficients) = (self.bias, self.coefficients);
        let mut groups = self.groups;
        while !groups.is_empty() {
            let group = next_group(&mut groups).ok_or(malformed)?;
            let bias = bias.split_off(..group.outputs).ok_or(malformed)?;
            let count = group.rows.saturating_mul(bias.len());
            let table = coefficients.split_off(..count).ok_or(malformed)?;
            let (mut first, mut width) = (0, 0);
            for (k, bias) in bias.iter().enumerate() {
                if k == first + width {
                    first = k;
                    width = block(group.outputs - k);
                }
                let column = table.get(first * group.rows + k - first..);
                let sum = self.largest_sum(&group, column.unwrap_or(&[]), width);
                let (weights, most) = match self.degree {
                    3 => (CUBIC_WEIGHTS, LARGEST_SUM),
                    _ => (LINEAR_WEIGHTS, LARGEST_PACKED),
                };
                match sum.ok_or(malformed)? {
                    // The left side does not overflow: 65 527 · 32 770 + 2³¹ < 2³².
                    sum if sum <= most
                        && sum * weights + bias.unsigned_abs() <= i32::MAX as u32 => {}
                    _ => return Err(LoadError::Overflow),
                }
            }
            if group.outputs == 0 {
                return Err(malformed);
            }
            let padding = (group.rows * group.outputs).wrapping_neg() % T::PER_WORD;
            let padding = coefficients.split_off(..padding).ok_or(malformed)?;
            if padding.iter().any(|&c| c.into() != 0) {
                return Err(malformed);
            }
        }
        if bias.is_empty() && coefficients.is_empty() {
            Ok(())
        } else {
            Err(malformed)
        }
    }

    /// Rows of coefficients of `node`, which has been checked.
    fn rows(&self, node: &IntegerNode) -> usize {
        (position(node.width << self.shift, node.scale) >> 15) as usize + 1 + self.degree
    }

    /// The largest sum of magnitudes that an output can get, of whose coefficients the first is
    /// that of `table` and each other stands `width` after the one before. `None` unless the
    /// group's members are ascending nodes of the layer that say truly how many rows they skip, and
    /// have the group's rows.
    fn largest_sum(&self, group: &Group, table: &[T], width: usize) -> Option<u32> {
        let (mut rows, mut lowest, mut sum) = (0, 0, 0);
        for k in 0..group.count(self.nodes.len()) {
            let (node, skipped) = group.member(k)?;
            let unpacked = IntegerNode::unpack(*self.nodes.get(node)?);
            if node < lowest || (unpacked.first >> 15) as usize != skipped + rows {
                return None;
            }
            lowest = node + 1;
            let mut largest = 0;
            for _ in 0..self.rows(&unpacked) {
                let c: i32 = (*table.get(rows * width)?).into();
                largest = largest.max(c.unsigned_abs());
                rows += 1;
            }
            sum += largest; // of 65 535 nodes at most, so it does not overflow
        }
        (rows == group.rows).then_some(sum)
    }

    /// Whether every input that an edge reads lies within its grid.
    pub fn covers(&self, input: &[i32]) -> bool {
        let mut groups = self.groups;
        while let Some(group) = next_group(&mut groups) {
            for k in 0..group.count(self.nodes.len()) {
                let Some((node, _)) = group.member(k) else {
                    return false;
                };
                let x = input.get(node).copied().unwrap_or(0);
                let covers = |&words| {
                    let node = IntegerNode::unpack(words);
                    x <= node.hi && node.hi.wrapping_sub(x) as u32 <= node.width
                };
                if !self.nodes.get(node).is_some_and(covers) {
                    return false;
                }
            }
        }
        true
    }

    /// Number of edges.
    pub fn edges(&self) -> usize {
        let (mut groups, mut edges) = (self.groups, 0);
        while let Some(group) = next_group(&mut groups) {
            edges += group.outputs * group.count(self.nodes.len());
        }
        edges
    }

    /// Writes the layer's sums to the start of `sums`. Without `input` they are what is there now:
    /// all are read before the first sum is written.
    ///
    /// `None` would be an access out of bounds, or an input that is missing: there is none after
    /// [`check`](Self::check) where inputs are as many as nodes.
    #[cfg(not(kan_integers))]
    #[inline(always)]
    pub fn eval<const KINDS: u16>(
        self,
        input: Option<&[i32]>,
        sums: &mut [i32],
        places: &mut [Slot],
    ) -> Option<()> {
        match self.degree {
            0 if KINDS & T::STEP != 0 => self.run::<Step>(input, sums, places),
            1 if KINDS & T::LINEAR != 0 => self.run::<Linear>(input, sums, places),
            3 if KINDS & T::CUBIC != 0 => self.run::<Cubic>(input, sums, places),
            _ => None,
        }
    }

    /// How a kernel evaluates the layer: all of it if that is one group of all outputs, fed by all
    /// nodes, else the places of its nodes, from which [`add_groups`](Self::add_groups) goes on.
    #[cfg(kan_integers)]
    pub fn plan<const KINDS: u16>(&self, plan: &mut Plan<'m>) {
        let kernel: kernel::Kernel = match (self.degree, size_of::<T>()) {
            (0, 2) if KINDS & T::STEP != 0 => kernel::step_i16,
            (0, _) if KINDS & T::STEP != 0 => kernel::step_i8,
            (1, 2) if KINDS & T::LINEAR != 0 => kernel::linear_i16,
            (1, _) if KINDS & T::LINEAR != 0 => kernel::linear_i8,
            (3, 2) if KINDS & T::CUBIC != 0 => kernel::cubic_i16,
            (3, _) if KINDS & T::CUBIC != 0 => kernel::cubic_i8,
            _ => return,
        };
        let rows = match *self.groups {
            [[_, ALL_NODES], [low, high]] => usize::from(low) | usize::from(high) << 16,
            _ => 0,
        };
        plan.of_integers(kernel, self.shift, self.coefficients, rows);
    }

    #[cfg(not(kan_integers))]
    #[inline(always)]
    fn run<B: Basis>(
        self,
        input: Option<&[i32]>,
        sums: &mut [i32],
        slots: &mut [Slot],
    ) -> Option<()> {
        let input = input.unwrap_or(sums);
        let places = kernel::fill(slots, self.nodes, |k, &words| {
            let position = IntegerNode::unpack(words).locate(*input.get(k)?, self.shift);
            Some(B::at(position))
        })?;
        // The one group of a dense layer first: it needs no look at the others.
        if let &[[_, ALL_NODES], [low, high]] = self.groups {
            let rows = usize::from(low) | usize::from(high) << 16;
            let sums = sums.get_mut(..self.bias.len())?;
            return add::<B, T>(places, rows, self.coefficients, Some(self.bias), sums);
        }
        self.add_groups::<B>(places, sums)
    }

    #[cfg(not(kan_integers))]
    /// Phase 2: sets the sums to what leaves the places of the nodes, group by group.
    #[inline(never)]
    fn add_groups<B: Basis>(self, places: &[Place], sums: &mut [i32]) -> Option<()> {
        let Self {
            mut bias,
            mut groups,
            mut coefficients,
            ..
        } = self;
        let mut sums = sums.get_mut(..bias.len())?;
        while let Some(group) = next_group(&mut groups) {
            let sums = sums.split_off_mut(..group.outputs)?;
            let start = bias.split_off(..group.outputs)?;
            let count = group.rows * group.outputs;
            let table = coefficients.split_off(..count.next_multiple_of(T::PER_WORD))?;
            let Some(mut members) = group.members else {
                add::<B, T>(places, group.rows, table, Some(start), sums)?;
                continue;
            };
            let mut start = Some(start);
            while !members.is_empty() {
                let some = members.split_off(..members.len().min(kernel::GATHERED))?;
                let mut slots = [const { Slot::uninit() }; kernel::GATHERED];
                // Their rows without those that are skipped.
                let gathered = kernel::fill(&mut slots, some, |_, &[node, skipped]| {
                    let place = *places.get(usize::from(node))?;
                    let row = place.row - u32::from(skipped);
                    Some(Place { row, ..place })
                })?;
                add::<B, T>(gathered, group.rows, table, start.take(), sums)?;
            }
            if let Some(start) = start {
                copy(start, sums); // no member
            }
        }
        Some(())
    }
}

/// Where sums start.
#[cfg(not(kan_integers))]
fn copy(start: &[i32], sums: &mut [i32]) {
    for (sum, start) in sums.iter_mut().zip(start) {
        *sum = *start;
    }
}

#[cfg(not(kan_integers))]
impl IntegerNode {
    /// Where `x` is: the row of its interval in the upper 17 bits, and Q15 of the interval.
    fn locate(&self, x: i32, shift: u32) -> u32 {
        let below = at_least_0(self.hi.saturating_sub(x));
        let d = at_least_0(self.width as i32 - below) as u32;
        self.first + position(d << shift, self.scale)
    }
}

/// `x`, or 0 if it is negative.
#[cfg(not(kan_integers))]
fn at_least_0(x: i32) -> i32 {
    x & !(x >> 31)
}

/// (d·(scale + 1)) / 2³², rounded down.
#[cfg(not(kan_v6m))]
fn position(d: u32, scale: u32) -> u32 {
    ((u64::from(d) * u64::from(scale) + u64::from(d)) >> 32) as u32
}

/// The same from products of 32 bits, where the processor has no longer ones.
#[cfg(any(kan_v6m, test))]
#[cfg_attr(not(kan_v6m), allow(dead_code))]
fn position_of_short_products(d: u32, scale: u32) -> u32 {
    let [d0, d1, s0, s1] = [d & 0xffff, d >> 16, scale & 0xffff, scale >> 16];
    let (low, cross) = (d0 * s0, d1 * s0);
    // Neither overflows: 65 535² + 65 535.
    let middle = cross + (low >> 16);
    let other = d0 * s1 + (middle & 0xffff);
    let (_, carry) = (other << 16 | (low & 0xffff)).overflowing_add(d);
    d1 * s1 + (middle >> 16) + (other >> 16) + u32::from(carry)
}

#[cfg(kan_v6m)]
use position_of_short_products as position;

/// Splines of one degree.
#[cfg(not(kan_integers))]
trait Basis {
    /// Coefficients that count on an interval.
    const TAPS: usize;

    /// The weights at a position.
    fn at(position: u32) -> Place;
}

/// Two weights in a word.
#[cfg(not(kan_integers))]
fn pair(low: i32, high: i32) -> u32 {
    (low as u32 & 0xffff) | (high as u32) << 16
}

#[cfg(not(kan_integers))]
struct Cubic;

#[cfg(not(kan_integers))]
impl Basis for Cubic {
    const TAPS: usize = 4;

    fn at(position: u32) -> Place {
        let t = position & 0x7fff;
        let t2 = t * t; // Q30
        let t3 = (t2 >> 16) * t + (((t2 & 0xffff) * t) >> 16); // Q29: ⌊t2·t / 2¹⁶⌋
        // t³/6 in Q15, rounded; 43 691 is 2¹⁸/6.
        let w3 = (t3 >> 16) * 43_691 + (((t3 & 0xffff) * 43_691) >> 16);
        let w3 = (w3 + 0x8000) >> 16;
        let (t, t2, t3, w3) = ((t << 15) as i32, t2 as i32, t3 as i32, w3 as i32);
        // 1/6 − (t − t²)/2 = w₀ + w₃
        let ends = 5461 - ((t - t2) >> 16);
        // 1/6 + (t + t² − t³)/2
        let w2 = 5462 + ((t + t2 - 2 * t3) >> 16);
        Place {
            weights: [pair(ends - w3, 32_768 - w2 - ends), pair(w2, w3)],
            row: position >> 15,
        }
    }
}

#[cfg(not(kan_integers))]
struct Linear;

#[cfg(not(kan_integers))]
impl Basis for Linear {
    const TAPS: usize = 2;

    fn at(position: u32) -> Place {
        let t = ((position >> 1) & 0x3fff) as i32;
        Place {
            weights: [pair(16_384 - t, t), 0],
            row: position >> 15,
        }
    }
}

#[cfg(not(kan_integers))]
struct Step;

#[cfg(not(kan_integers))]
impl Basis for Step {
    const TAPS: usize = 1;

    fn at(position: u32) -> Place {
        Place {
            weights: [16_384, 0],
            row: position >> 15,
        }
    }
}

/// Adds the edges that leave `places` to the sums of a group, of which the table has `rows`; the
/// sums begin at `start`, or with what they are.
#[cfg(not(kan_integers))]
fn add<B: Basis, T: Entry>(
    places: &[Place],
    rows: usize,
    table: &[T],
    start: Option<&[i32]>,
    sums: &mut [i32],
) -> Option<()> {
    copy(start.unwrap_or(&[]), sums);
    match B::TAPS {
        4 => add_splines::<T, 4>(places, rows, table, sums),
        2 => add_splines::<T, 2>(places, rows, table, sums),
        _ => add_splines::<T, 1>(places, rows, table, sums),
    }
}

/// The same for splines of which `TAPS` coefficients count.
#[cfg(not(kan_integers))]
#[inline(never)]
fn add_splines<T: Entry, const TAPS: usize>(
    places: &[Place],
    rows: usize,
    mut table: &[T],
    mut sums: &mut [i32],
) -> Option<()> {
    while sums.len() >= 4 {
        let block = table.split_off(..4 * rows)?;
        add_block::<T, TAPS, 4>(places, block, sums.split_off_mut(..4)?)?;
    }
    if sums.len() >= 2 {
        let block = table.split_off(..2 * rows)?;
        add_block::<T, TAPS, 2>(places, block, sums.split_off_mut(..2)?)?;
    }
    if !sums.is_empty() {
        add_block::<T, TAPS, 1>(places, table, sums)?;
    }
    Some(())
}

/// Adds them to `W` sums.
#[cfg(not(kan_integers))]
fn add_block<T: Entry, const TAPS: usize, const W: usize>(
    places: &[Place],
    table: &[T],
    sums: &mut [i32],
) -> Option<()> {
    let rows = table.as_chunks::<W>().0;
    let sums: &mut [i32; W] = sums.first_chunk_mut()?;
    for place in places {
        let taps: &[[T; W]; TAPS] = rows.get(place.row as usize..)?.first_chunk()?;
        let [a, b] = place.weights;
        let weights = [a as i16, (a >> 16) as i16, b as i16, (b >> 16) as i16].map(i32::from);
        for (k, sum) in sums.iter_mut().enumerate() {
            for (weight, row) in weights.iter().zip(taps) {
                *sum += weight * row[k].into();
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_products_give_the_same_positions() {
        let mut z: u32 = 1;
        let mut next = || {
            z = z.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            z.rotate_left(16)
        };
        for _ in 0..1_000_000 {
            let (d, scale) = (next() >> 1, next());
            assert_eq!(position(d, scale), position_of_short_products(d, scale));
        }
        for d in [0, 1, 0xffff, 0x1_0000, 0x7fff_ffff] {
            for scale in [0, 1, 0xffff, 0x1_0000, u32::MAX] {
                assert_eq!(position(d, scale), position_of_short_products(d, scale));
            }
        }
    }
}
