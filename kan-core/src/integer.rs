//! Layers of integer tables: their checks, and their evaluation without a float.

use core::mem::MaybeUninit;

use crate::blob::{ALL_NODES, IntegerNode, LoadError};
#[cfg(kan_dsp)]
use crate::kernel;
#[cfg(kan_v6m)]
use crate::kernel_v6m;
use crate::kinds;

/// The sum of weights, as magnitudes: 1 in Q15, and twice what rounding can make negative.
const CUBIC_WEIGHTS: u32 = 32_770;

/// The weight of a coefficient of degree 0, and of both of degree 1 together: 1 in Q14.
const LINEAR_WEIGHTS: u32 = 16_384;

/// The largest sum of coefficients' magnitudes in a layer of degree 1 or 0: kernels add several
/// such sums in one register, 16 bits each.
const LARGEST_PACKED: u32 = 32_767;

/// The largest of a layer of degree 3: 16 bits are enough for it.
const LARGEST_SUM: u32 = 65_527;

/// Places of a group's members that are gathered at a time.
const GATHERED: usize = 8;

/// A coefficient.
pub(crate) trait Entry: Copy + Into<i32> {
    /// So many fill four bytes.
    const PER_WORD: usize = 4 / size_of::<Self>();
    /// The kinds of these coefficients.
    const STEP: u16;
    const LINEAR: u16;
    const CUBIC: u16;

    /// Adds the edges that leave `places` to the sums of a group, of which the table has `rows`;
    /// the sums begin at `start`, or with what they are.
    #[cfg(not(kan_dsp))]
    fn add<B: Basis>(
        places: &[Place],
        rows: usize,
        table: &[Self],
        start: Option<&[i32]>,
        sums: &mut [i32],
    ) -> Option<()> {
        for (sum, start) in sums.iter_mut().zip(start.unwrap_or(&[])) {
            *sum = *start;
        }
        add::<B, Self>(places, rows, table, sums)
    }

    /// The kernel for blocks of four and splines of which `TAPS` coefficients count.
    #[cfg(kan_v6m)]
    fn block<const TAPS: usize>() -> kernel_v6m::AddBlock;

    /// The kernel for splines of degree 3, 1 or 0.
    #[cfg(kan_dsp)]
    fn kernel<B: Basis>() -> kernel::Add;

    /// Adds the edges that leave `places` to the sums of a group, of which the table has `rows`;
    /// the sums begin at `start`, or with what they are.
    #[cfg(kan_dsp)]
    #[allow(unsafe_code)]
    fn add<B: Basis>(
        places: &[Place],
        rows: usize,
        table: &[Self],
        start: Option<&[i32]>,
        sums: &mut [i32],
    ) -> Option<()> {
        if places.is_empty() {
            for (sum, start) in sums.iter_mut().zip(start.unwrap_or(&[])) {
                *sum = *start;
            }
            return Some(());
        }
        let starts = start.map_or(sums.len(), <[_]>::len);
        if starts != sums.len() || rows * sums.len() > table.len() {
            return None;
        }
        let start = start.map_or(sums.as_ptr(), <[_]>::as_ptr);
        let places = places.as_ptr_range();
        let mut work = kernel::Work {
            places: places.start,
            places_end: places.end,
            table: table.as_ptr().cast(),
            start,
            outputs: sums.len(),
            rows,
            sums: sums.as_mut_ptr(),
        };
        // SAFETY: there are places; `Tables::check` has shown that no position of a node leaves the
        // node's rows and that these are among the group's `rows`; table and sums are long enough, and
        // groups start at multiples of four in a table that does.
        unsafe { Self::kernel::<B>()(&raw mut work) };
        Some(())
    }
}

impl Entry for i16 {
    const STEP: u16 = kinds::STEP_I16;
    const LINEAR: u16 = kinds::LINEAR_I16;
    const CUBIC: u16 = kinds::CUBIC_I16;

    #[cfg(kan_dsp)]
    fn kernel<B: Basis>() -> kernel::Add {
        match B::TAPS {
            4 => kernel::add_cubic_i16,
            2 => kernel::add_linear_i16,
            _ => kernel::add_step_i16,
        }
    }

    #[cfg(kan_v6m)]
    fn block<const TAPS: usize>() -> kernel_v6m::AddBlock {
        match TAPS {
            4 => kernel_v6m::cubic_i16,
            2 => kernel_v6m::linear_i16,
            _ => kernel_v6m::step_i16,
        }
    }
}

impl Entry for i8 {
    const STEP: u16 = kinds::STEP_I8;
    const LINEAR: u16 = kinds::LINEAR_I8;
    const CUBIC: u16 = kinds::CUBIC_I8;

    #[cfg(kan_dsp)]
    fn kernel<B: Basis>() -> kernel::Add {
        match B::TAPS {
            4 => kernel::add_cubic_i8,
            2 => kernel::add_linear_i8,
            _ => kernel::add_step_i8,
        }
    }

    #[cfg(kan_v6m)]
    fn block<const TAPS: usize>() -> kernel_v6m::AddBlock {
        match TAPS {
            4 => kernel_v6m::cubic_i8,
            2 => kernel_v6m::linear_i8,
            _ => kernel_v6m::step_i8,
        }
    }
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
    /// Checks the grid and returns its number of intervals: those that its inputs can reach.
    fn check(&self, shift: u32) -> Result<u32, LoadError> {
        let width = i32::try_from(self.width).map_err(|_| LoadError::Overflow)?;
        if width > i32::MAX >> shift {
            return Err(LoadError::Overflow);
        }
        // Both ends can be told from saturated inputs.
        match self.hi.checked_sub(width) {
            Some(lo) if lo > i32::MIN && self.hi < i32::MAX => {}
            _ => return Err(LoadError::Overflow),
        }
        Ok((position(self.width << shift, self.scale) >> 15) + 1)
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
            let rows = node.check(self.shift)? + self.degree as u32;
            // A position within the node is less than `rows << 15`.
            first = first.checked_add(rows << 15).ok_or(LoadError::Overflow)?;
        }
        let (mut bias, mut coefficients) = (self.bias, self.coefficients);
        let mut groups = self.groups;
        while !groups.is_empty() {
            let group = next_group(&mut groups).ok_or(malformed)?;
            let bias = bias.split_off(..group.outputs).ok_or(malformed)?;
            self.check_group(&group, bias, &mut coefficients)?;
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

    /// The nodes of a group's members, in order, if they are ascending nodes of the layer and say
    /// truly how many rows they skip.
    fn members(
        &self,
        group: &Group,
        mut each: impl FnMut(IntegerNode) -> Option<()>,
    ) -> Option<()> {
        let Some(members) = group.members else {
            for &words in self.nodes {
                each(IntegerNode::unpack(words))?;
            }
            return Some(());
        };
        let (mut rows, mut lowest) = (0, 0);
        for &[node, skipped] in members {
            let words = self.nodes.get(usize::from(node))?;
            let unpacked = IntegerNode::unpack(*words);
            if node < lowest || (unpacked.first >> 15) as usize != usize::from(skipped) + rows {
                return None;
            }
            lowest = node.checked_add(1)?;
            rows += self.rows(&unpacked);
            each(unpacked)?;
        }
        Some(())
    }

    /// Checks the next group and takes its coefficients.
    fn check_group(
        &self,
        group: &Group,
        mut bias: &[i32],
        coefficients: &mut &[T],
    ) -> Result<(), LoadError> {
        let malformed = LoadError::Malformed;
        let mut rows = 0;
        self.members(group, |node| {
            rows += self.rows(&node);
            Some(())
        })
        .ok_or(malformed)?;
        if rows != group.rows || group.outputs == 0 {
            return Err(malformed);
        }
        while !bias.is_empty() {
            let width = block(bias.len());
            let block = coefficients
                .split_off(..rows.saturating_mul(width))
                .ok_or(malformed)?;
            for (column, bias) in bias.split_off(..width).ok_or(malformed)?.iter().enumerate() {
                let mut rest = block.get(column..).unwrap_or(&[]).iter().step_by(width);
                let mut sum: u32 = 0;
                self.members(group, |node| {
                    let mut largest = 0;
                    for _ in 0..self.rows(&node) {
                        let c: i32 = (*rest.next()?).into();
                        largest = largest.max(c.unsigned_abs());
                    }
                    sum = sum.saturating_add(largest);
                    Some(())
                });
                let (weights, most) = match self.degree {
                    3 => (CUBIC_WEIGHTS, LARGEST_SUM),
                    _ => (LINEAR_WEIGHTS, LARGEST_PACKED),
                };
                // No product overflows: the largest is 65 535 · 32 770.
                let reach = |sum: u32| (sum * weights).checked_add(bias.unsigned_abs());
                match reach(sum.min(most)) {
                    Some(reach) if sum <= most && reach <= i32::MAX as u32 => {}
                    _ => return Err(LoadError::Overflow),
                }
            }
        }
        let padding = (rows * group.outputs).wrapping_neg() % T::PER_WORD;
        let padding = coefficients.split_off(..padding).ok_or(malformed)?;
        if padding.iter().all(|&c| c.into() == 0) {
            Ok(())
        } else {
            Err(malformed)
        }
    }

    /// Whether every input that an edge reads lies within its grid.
    pub fn covers(&self, input: &[i32]) -> bool {
        self.nodes.iter().enumerate().all(|(k, &words)| {
            let node = IntegerNode::unpack(words);
            let x = input.get(k).copied().unwrap_or(0);
            let inside = x <= node.hi && node.hi.wrapping_sub(x) as u32 <= node.width;
            inside || !self.reads(k)
        })
    }

    /// Number of edges.
    pub fn edges(&self) -> usize {
        let (mut groups, mut edges) = (self.groups, 0);
        while let Some(group) = next_group(&mut groups) {
            edges += group.outputs * group.members.map_or(self.nodes.len(), <[_]>::len);
        }
        edges
    }

    /// Whether an edge leaves node `k`.
    fn reads(&self, k: usize) -> bool {
        let mut groups = self.groups;
        while let Some(group) = next_group(&mut groups) {
            let is_k = |&[node, _]: &[u16; 2]| usize::from(node) == k;
            if group.members.is_none_or(|members| members.iter().any(is_k)) {
                return true;
            }
        }
        false
    }

    /// Writes the layer's sums to the start of `sums`. Without `input` they are what is there now:
    /// all are read before the first sum is written. Inputs that are missing count as 0.
    ///
    /// `None` would be an access out of bounds: there is none after [`check`](Self::check).
    pub fn eval<const KINDS: u16>(
        &self,
        input: Option<&[i32]>,
        sums: &mut [i32],
        places: &mut [Slot],
    ) -> Option<()> {
        let places = places.get_mut(..self.nodes.len())?;
        match self.degree {
            0 if KINDS & T::STEP != 0 => self.run::<Step>(input, sums, places),
            1 if KINDS & T::LINEAR != 0 => self.run::<Linear>(input, sums, places),
            3 if KINDS & T::CUBIC != 0 => self.run::<Cubic>(input, sums, places),
            _ => None,
        }
    }

    fn run<B: Basis>(
        &self,
        input: Option<&[i32]>,
        sums: &mut [i32],
        places: &mut [Slot],
    ) -> Option<()> {
        let places = locate::<B>(self.nodes, self.shift, input.unwrap_or(sums), places)?;
        // The one group of a dense layer first: it needs no look at the others.
        if let &[[_, ALL_NODES], [low, high]] = self.groups {
            let rows = usize::from(low) | usize::from(high) << 16;
            let sums = sums.get_mut(..self.bias.len())?;
            return T::add::<B>(places, rows, self.coefficients, Some(self.bias), sums);
        }
        self.run_groups::<B>(places, sums)
    }

    /// Phase 2 of a layer of several groups.
    #[inline(never)]
    fn run_groups<B: Basis>(&self, places: &[Place], sums: &mut [i32]) -> Option<()> {
        let (mut bias, mut coefficients) = (self.bias, self.coefficients);
        let mut sums = sums.get_mut(..bias.len())?;
        let mut groups = self.groups;
        while let Some(group) = next_group(&mut groups) {
            let sums = sums.split_off_mut(..group.outputs)?;
            let start = bias.split_off(..group.outputs)?;
            let count = group.rows * group.outputs;
            let table = coefficients.split_off(..count.next_multiple_of(T::PER_WORD))?;
            match group.members {
                None => T::add::<B>(places, group.rows, table, Some(start), sums)?,
                Some(members) => {
                    // At least once, for the bias.
                    let (mut members, mut start) = (members, Some(start));
                    while start.is_some() || !members.is_empty() {
                        let some = members.split_off(..members.len().min(GATHERED))?;
                        let mut gathered = [const { Slot::uninit() }; GATHERED];
                        let gathered = gather(places, some, &mut gathered)?;
                        T::add::<B>(gathered, group.rows, table, start.take(), sums)?;
                    }
                }
            }
        }
        Some(())
    }
}

#[cfg(not(kan_v6m))]
impl IntegerNode {
    /// Where `x` is: the row of its interval in the upper 17 bits, and Q15 of the interval.
    fn locate(&self, x: i32, shift: u32) -> u32 {
        let below = at_least_0(self.hi.saturating_sub(x));
        let d = at_least_0(self.width as i32 - below) as u32;
        self.first + position(d << shift, self.scale)
    }
}

/// `x`, or 0 if it is negative.
#[cfg(not(kan_v6m))]
fn at_least_0(x: i32) -> i32 {
    x & !(x >> 31)
}

/// (d·(scale + 1)) / 2³², rounded down.
#[cfg(not(kan_v6m))]
fn position(d: u32, scale: u32) -> u32 {
    ((u64::from(d) * (u64::from(scale) + 1)) >> 32) as u32
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

/// Where a node's input lies: what all edges that leave the node share.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Place {
    /// Weights of the coefficients in the interval's rows, 16 bits each, the first lowest.
    weights: [u32; 2],
    /// The first of the rows.
    row: u32,
}

/// Room for a place.
pub(crate) type Slot = MaybeUninit<Place>;

/// Splines of one degree.
pub(crate) trait Basis {
    /// Coefficients that count on an interval.
    const TAPS: usize;

    /// Finds places, many at a time.
    #[cfg(kan_dsp)]
    const LOCATE: kernel::Locate;

    /// The weights at a position.
    fn at(position: u32) -> Place;
}

/// Two weights in a word.
fn pair(low: i32, high: i32) -> u32 {
    (low as u32 & 0xffff) | (high as u32) << 16
}

struct Cubic;

impl Basis for Cubic {
    const TAPS: usize = 4;
    #[cfg(kan_dsp)]
    const LOCATE: kernel::Locate = kernel::locate_cubic;

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

struct Linear;

impl Basis for Linear {
    const TAPS: usize = 2;
    #[cfg(kan_dsp)]
    const LOCATE: kernel::Locate = kernel::locate_linear;

    fn at(position: u32) -> Place {
        let t = ((position >> 1) & 0x3fff) as i32;
        Place {
            weights: [pair(16_384 - t, t), 0],
            row: position >> 15,
        }
    }
}

struct Step;

impl Basis for Step {
    const TAPS: usize = 1;
    #[cfg(kan_dsp)]
    const LOCATE: kernel::Locate = kernel::locate_step;

    fn at(position: u32) -> Place {
        Place {
            weights: [16_384, 0],
            row: position >> 15,
        }
    }
}

/// Finds the places of all nodes, as many as `slots`. Inputs that are missing count as 0.
#[allow(unsafe_code)]
fn locate<'s, B: Basis>(
    nodes: &[[u32; 4]],
    shift: u32,
    mut input: &[i32],
    slots: &'s mut [Slot],
) -> Option<&'s [Place]> {
    let slots = slots.get_mut(..nodes.len())?;
    #[cfg(kan_dsp)]
    if !nodes.is_empty() && input.len() >= nodes.len() {
        let ends = slots.as_mut_ptr_range();
        let (start, end) = (ends.start.cast(), ends.end.cast());
        // SAFETY: as many nodes as slots, at least one, and at least as many inputs; the layer's check
        // has seen to the shift.
        unsafe { B::LOCATE(nodes.as_ptr(), input.as_ptr(), start, end, shift) };
        // SAFETY: the kernel has written all.
        return Some(unsafe { slots.assume_init_ref() });
    }
    for (slot, &words) in slots.iter_mut().zip(nodes) {
        let x = input.split_off_first().copied().unwrap_or(0);
        #[cfg(kan_v6m)]
        // SAFETY: the layer's check has seen to the shift.
        let position = unsafe { kernel_v6m::position(&words, x, shift) };
        #[cfg(not(kan_v6m))]
        let position = IntegerNode::unpack(words).locate(x, shift);
        slot.write(B::at(position));
    }
    // SAFETY: all have been written, being as many as nodes.
    Some(unsafe { slots.assume_init_ref() })
}

/// The places of members, their rows without those that are skipped. As many slots as members suffice.
#[allow(unsafe_code)]
fn gather<'s>(
    places: &[Place],
    members: &[[u16; 2]],
    slots: &'s mut [Slot],
) -> Option<&'s [Place]> {
    let slots = slots.get_mut(..members.len())?;
    for (slot, &[node, skipped]) in slots.iter_mut().zip(members) {
        let place = *places.get(usize::from(node))?;
        let row = place.row - u32::from(skipped);
        slot.write(Place { row, ..place });
    }
    // SAFETY: all have been written, being as many as members.
    Some(unsafe { slots.assume_init_ref() })
}

/// Adds the edges that leave `places` to the sums of a group.
#[cfg(not(kan_dsp))]
fn add<B: Basis, T: Entry>(
    places: &[Place],
    rows: usize,
    table: &[T],
    sums: &mut [i32],
) -> Option<()> {
    match B::TAPS {
        4 => add_splines::<T, 4>(places, rows, table, sums),
        2 => add_splines::<T, 2>(places, rows, table, sums),
        _ => add_splines::<T, 1>(places, rows, table, sums),
    }
}

/// The same for splines of which `TAPS` coefficients count.
#[cfg(not(kan_dsp))]
#[cfg_attr(kan_v6m, allow(unsafe_code))]
fn add_splines<T: Entry, const TAPS: usize>(
    places: &[Place],
    rows: usize,
    mut table: &[T],
    mut sums: &mut [i32],
) -> Option<()> {
    while sums.len() >= 4 {
        let block = table.split_off(..4 * rows)?;
        let sums = sums.split_off_mut(..4)?;
        #[cfg(kan_v6m)]
        if !places.is_empty() {
            let places = places.as_ptr_range();
            let (table, sums) = (block.as_ptr().cast(), sums.as_mut_ptr());
            // SAFETY: there are places; `Tables::check` has shown that no position of a node leaves
            // the node's rows and that these are among the group's; there are four sums; groups start
            // at multiples of four in a table that does, and blocks of four before others.
            unsafe { T::block::<TAPS>()(places.start, places.end, table, sums) };
            continue;
        }
        add_block::<T, TAPS, 4>(places, block, sums)?;
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
#[cfg(not(kan_dsp))]
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
