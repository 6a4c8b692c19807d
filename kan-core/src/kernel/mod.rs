//! All unsafe code of this crate: kernels in assembly for tables of integers, and scratch memory that
//! is written before it is read. The plain Rust of [`integer`](crate::integer) computes the same, bit
//! for bit, and is what other targets run.
//!
//! Two phases. First the place of every input node: weights and row. Then, for each block of four
//! outputs, all nodes, with the four sums in registers.
//!
//! What the kernels rely on and nobody checks here: `Tables::check` has seen the tables. It has shown
//! that whatever the input no position leaves the rows of its node, that all rows of a group's members
//! are in the group's table, and that shifts are less than 32.

#[cfg(kan_dsp)]
mod dsp;
#[cfg(kan_v6m)]
mod v6m;
#[cfg(kan_vfp)]
mod vfp;

use core::mem::MaybeUninit;

/// Where a node's input lies: what all edges that leave the node share.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Place {
    /// Weights of the coefficients in the interval's rows, 16 bits each, the first lowest.
    pub weights: [u32; 2],
    /// The first of the rows.
    pub row: u32,
}

/// Room for a place.
pub(crate) type Slot = MaybeUninit<Place>;

/// Writes one place for each element of `of`. `None` without a slot or a place for one.
pub(crate) fn fill<'s, T>(
    slots: &'s mut [Slot],
    of: &[T],
    place: impl Fn(usize, &T) -> Option<Place>,
) -> Option<&'s [Place]> {
    let slots = slots.get_mut(..of.len())?;
    for (k, (slot, of)) in slots.iter_mut().zip(of).enumerate() {
        slot.write(place(k, of)?);
    }
    // SAFETY: all have been written, being as many as `of`.
    Some(unsafe { slots.assume_init_ref() })
}

/// Phase 1 for splines of which `taps` coefficients count. `None` without an input or a slot for
/// every node.
#[cfg(any(kan_dsp, kan_v6m))]
#[inline(always)]
pub(crate) fn locate<'s>(
    taps: usize,
    nodes: &[[u32; 4]],
    inputs: &[i32],
    shift: u32,
    slots: &'s mut [Slot],
) -> Option<&'s [Place]> {
    #[cfg(kan_dsp)]
    use dsp::{Locate, locate_cubic, locate_linear, locate_step};
    #[cfg(kan_v6m)]
    use v6m::{Locate, locate_cubic, locate_linear, locate_step};

    let slots = slots.get_mut(..nodes.len())?;
    if nodes.is_empty() || inputs.len() < nodes.len() {
        return None;
    }
    let kernel: Locate = match taps {
        4 => locate_cubic,
        2 => locate_linear,
        _ => locate_step,
    };
    let ends = slots.as_mut_ptr_range();
    let (start, end) = (ends.start.cast(), ends.end.cast());
    // SAFETY: as many nodes as slots, at least one, and at least as many inputs; the shift is small.
    // The kernel writes all slots.
    unsafe {
        kernel(nodes.as_ptr(), inputs.as_ptr(), start, end, shift);
        Some(slots.assume_init_ref())
    }
}

/// A kernel for splines of one degree in `f32`.
#[cfg(kan_vfp)]
pub(crate) use vfp::{AddSplines, add_cubic, add_linear, add_step};

/// Sets the sums of a layer of `f32` to its biases and adds the splines. `None` unless there is an input for
/// every node, and a node.
#[cfg(kan_vfp)]
#[inline(always)]
pub(crate) fn add_splines(
    kernel: AddSplines,
    tables: &crate::float::Tables,
    input: &[f32],
    sums: &mut [f32],
) -> Option<()> {
    let (nodes, outputs) = (tables.nodes, tables.bias.len());
    if nodes.is_empty() || input.len() < nodes.len() || sums.len() != outputs {
        return None;
    }
    let is_dense = tables.targets.len() == nodes.len() * outputs;
    let ends = sums.as_mut_ptr_range();
    let work = vfp::Work {
        nodes: nodes.as_ptr(),
        inputs: input.as_ptr(),
        table: tables.coefficients.as_ptr(),
        row: if is_dense { 4 * outputs } else { 0 },
        bias: tables.bias.as_ptr(),
        nodes_end: nodes.as_ptr_range().end,
        sums_end: ends.end,
        eights_end: ends.end.wrapping_sub(outputs % 8),
        sums: ends.start,
        targets: tables.targets.as_ptr(),
    };
    // SAFETY: the tables have been checked: the rows and targets of all nodes are there, and the targets
    // are sums. A layer with as many edges as pairs of nodes has one between each. There are as many
    // biases as sums and as many inputs as nodes, at least one.
    unsafe { kernel(&raw const work) };
    Some(())
}

/// Phase 2: adds the edges that leave `places`, at least one, to the sums of a group, whose table has
/// `rows`. The sums begin at `start`, as many as they, or with what they are.
#[cfg(kan_dsp)]
#[inline(always)]
pub(crate) fn add<T>(
    taps: usize,
    places: &[Place],
    rows: usize,
    table: &[T],
    start: Option<&[i32]>,
    sums: &mut [i32],
) -> Option<()> {
    let kernel: dsp::Add = match (taps, size_of::<T>()) {
        (4, 2) => dsp::add_cubic_i16,
        (2, 2) => dsp::add_linear_i16,
        (_, 2) => dsp::add_step_i16,
        (4, _) => dsp::add_cubic_i8,
        (2, _) => dsp::add_linear_i8,
        _ => dsp::add_step_i8,
    };
    if places.is_empty() || start.is_some_and(|start| start.len() != sums.len()) {
        return None;
    }
    let start = start.map_or(sums.as_ptr(), <[_]>::as_ptr);
    let places = places.as_ptr_range();
    let mut work = dsp::Work {
        places: places.start,
        places_end: places.end,
        table: table.as_ptr().cast(),
        start,
        outputs: sums.len(),
        rows,
        sums: sums.as_mut_ptr(),
    };
    // SAFETY: there are places, and their rows are in the table, which has `rows` of as many
    // coefficients as there are sums, and starts at a multiple of four.
    unsafe { kernel(&raw mut work) };
    Some(())
}

/// Adds the edges that leave `places`, at least one, to a block of four, two or one sums, whose rows
/// begin the table. `None` if there are fewer sums than `width`.
#[cfg(kan_v6m)]
#[inline(always)]
pub(crate) fn add_block<T>(
    taps: usize,
    width: usize,
    places: &[Place],
    table: &[T],
    sums: &mut [i32],
) -> Option<()> {
    macro_rules! of {
        ($four:ident, $two:ident, $one:ident) => {
            match width {
                4 => v6m::$four,
                2 => v6m::$two,
                _ => v6m::$one,
            }
        };
    }
    let kernel: v6m::AddBlock = match (taps, size_of::<T>()) {
        (4, 2) => of!(cubic_i16_four, cubic_i16_two, cubic_i16_one),
        (2, 2) => of!(linear_i16_four, linear_i16_two, linear_i16_one),
        (_, 2) => of!(step_i16_four, step_i16_two, step_i16_one),
        (4, _) => of!(cubic_i8_four, cubic_i8_two, cubic_i8_one),
        (2, _) => of!(linear_i8_four, linear_i8_two, linear_i8_one),
        _ => of!(step_i8_four, step_i8_two, step_i8_one),
    };
    if places.is_empty() || sums.len() < width {
        return None;
    }
    let places = places.as_ptr_range();
    let (table, sums) = (table.as_ptr().cast(), sums.as_mut_ptr());
    // SAFETY: there are places, their rows are in the table, and there are the sums; groups start at
    // multiples of four in a table that does, and wider blocks come before others.
    unsafe { kernel(places.start, places.end, table, sums) };
    Some(())
}
