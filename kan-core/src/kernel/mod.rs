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
#[cfg(any(kan_dsp, kan_v6m))]
use core::ptr;

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

/// A kernel of one degree and number format: finds the places of `nodes`, unless that is null, and adds the
/// edges that leave the places to `start`.
///
/// # Safety
///
/// - At least one place; if there are nodes, as many as places and as many inputs. Otherwise the places
///   have been written.
/// - The table starts at a multiple of four and holds the rows of the places and as many as the degree
///   after them for each output; `block` are the bytes for four. It is looked at only if there are outputs.
/// - `start` and `sums` are as many as `outputs`, and `fours_end` is where of the sums blocks of four end.
/// - `shift` is less than 32.
#[cfg(any(kan_dsp, kan_v6m))]
type Kernel = unsafe extern "C" fn(
    nodes: *const [u32; 4],
    inputs: *const i32,
    places: *mut Place,
    places_end: *const Place,
    table: *const u8,
    start: *const i32,
    sums: *mut i32,
    fours_end: *mut i32,
    block: usize,
    outputs: usize,
    shift: u32,
);

/// The kernel for splines of which `taps` coefficients count.
#[cfg(any(kan_dsp, kan_v6m))]
#[inline(always)]
fn kernel<T>(taps: usize) -> Kernel {
    #[cfg(kan_dsp)]
    use dsp as of;
    #[cfg(kan_v6m)]
    use v6m as of;
    match (taps, size_of::<T>()) {
        (4, 2) => of::cubic_i16,
        (2, 2) => of::linear_i16,
        (_, 2) => of::step_i16,
        (4, _) => of::cubic_i8,
        (2, _) => of::linear_i8,
        _ => of::step_i8,
    }
}

/// Both phases of a layer of one group, or phase 1 of another, without a table: `None` without an input or
/// a slot for every node. The inputs are what is in `sums` if there are no others.
#[cfg(any(kan_dsp, kan_v6m))]
#[inline(always)]
pub(crate) fn run<'s, T>(
    taps: usize,
    (nodes, shift): (&[[u32; 4]], u32),
    inputs: Option<&[i32]>,
    slots: &'s mut [Slot],
    (table, rows): (&[T], usize),
    start: &[i32],
    sums: &mut [i32],
) -> Option<&'s [Place]> {
    let given = inputs.unwrap_or(sums).len();
    let slots = slots.get_mut(..nodes.len())?;
    if nodes.is_empty() || given < nodes.len() || sums.len() < start.len() {
        return None;
    }
    let ends = slots.as_mut_ptr_range();
    let outputs = start.len();
    let sums = sums.as_mut_ptr();
    let inputs = inputs.map_or(sums.cast_const(), <[_]>::as_ptr);
    // SAFETY: as many nodes as slots, at least one, and at least as many inputs; the shift is small. The
    // rows of all places are in the table, which has `rows` of as many coefficients as sums to start with,
    // and there are as many sums. The kernel writes all slots, and reads all inputs before it writes sums.
    unsafe {
        kernel::<T>(taps)(
            nodes.as_ptr(),
            inputs,
            ends.start.cast(),
            ends.end.cast(),
            table.as_ptr().cast(),
            start.as_ptr(),
            sums,
            sums.wrapping_add(outputs & !3),
            4 * size_of::<T>() * rows,
            outputs,
            shift,
        );
        Some(slots.assume_init_ref())
    }
}

/// Phase 2: adds the edges that leave `places`, at least one, to the sums of a group, whose table has
/// `rows`. The sums begin at `start`, as many as they, or with what they are.
#[cfg(any(kan_dsp, kan_v6m))]
#[inline(always)]
pub(crate) fn add<T>(
    taps: usize,
    places: &[Place],
    rows: usize,
    table: &[T],
    start: Option<&[i32]>,
    sums: &mut [i32],
) -> Option<()> {
    let outputs = sums.len();
    if places.is_empty() || start.is_some_and(|start| start.len() != outputs) {
        return None;
    }
    let ends = places.as_ptr_range();
    let sums = sums.as_mut_ptr();
    let start = start.map_or(sums.cast_const(), <[_]>::as_ptr);
    // SAFETY: there are places, and their rows are in the table, which has `rows` of as many
    // coefficients as there are sums, and starts at a multiple of four. Without nodes the places are only
    // read.
    unsafe {
        kernel::<T>(taps)(
            ptr::null(),
            ptr::null(),
            ends.start.cast_mut(),
            ends.end,
            table.as_ptr().cast(),
            start,
            sums,
            sums.wrapping_add(outputs & !3),
            4 * size_of::<T>() * rows,
            outputs,
            0,
        );
    }
    Some(())
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
