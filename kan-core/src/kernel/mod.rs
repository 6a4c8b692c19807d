//! All unsafe code of this crate: kernels in assembly, and scratch memory that is written before it
//! is read. The plain Rust of [`integer`](crate::integer) and [`float`](crate::float) computes the
//! same, bit for bit, and is what other targets run.
//!
//! Integers in two phases. First the place of every input node: weights and row. Then, for each
//! block of four outputs, all nodes, with the four sums in registers. Floats node by node.
//!
//! What the kernels rely on and nobody checks here: `Tables::check` has seen the tables. It has
//! shown that whatever the input no position leaves the rows of its node, that all rows of a
//! group's members are in the group's table, and that shifts are less than 32.

#[cfg(any(kan_dsp, kan_v7m))]
#[macro_use]
mod thumb;

#[cfg(kan_dsp)]
mod dsp;
#[cfg(kan_v6m)]
mod v6m;
#[cfg(kan_v7m)]
mod v7m;
#[cfg(kan_vfp)]
mod vfp;

#[cfg(kan_kernels)]
use core::marker::PhantomData;
use core::mem::MaybeUninit;
#[cfg(kan_kernels)]
use core::{ptr, slice};

#[cfg(kan_integers)]
use crate::blob::ALL_NODES;

/// Where a node's input lies: what all edges that leave the node share.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Place {
    /// Weights of the coefficients in the interval's rows, 16 bits each, the first lowest.
    pub weights: [u32; 2],
    /// The first of the rows.
    pub row: u32,
}

/// Places of a group's members that are gathered at a time.
pub(crate) const GATHERED: usize = 8;

/// Room for a place.
pub(crate) type Slot = MaybeUninit<Place>;

/// Writes one place for each element of `of`. `None` without a slot or a place for one.
#[cfg(not(kan_integers))]
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

/// A kernel of one degree and number format: writes the sums of a layer of which it has the plan.
///
/// # Safety
///
/// - The plan is of tables that have been checked. There are as many inputs as its nodes, and as
///   many sums as its outputs.
/// - Of integers, there is a place for every node, and the kernel writes it; or inputs is null, and
///   as many places have been written. Of floats there are inputs, and places are not looked at.
#[cfg(kan_kernels)]
pub(crate) type Kernel =
    unsafe extern "C" fn(plan: *const Plan, inputs: *const u32, sums: *mut u32, places: *mut Place);

#[cfg(kan_integers)]
pub(crate) use integers::{cubic_i8, cubic_i16, linear_i8, linear_i16, step_i8, step_i16};
#[cfg(kan_vfp)]
pub(crate) use vfp::{cubic_f32, linear_f32, step_f32};

#[cfg(kan_dsp)]
use dsp as integers;
#[cfg(kan_v6m)]
use v6m as integers;
#[cfg(kan_v7m)]
use v7m as integers;

/// A layer, or a group of a layer of integers, as its kernel reads it.
#[cfg(kan_kernels)]
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Plan<'m> {
    nodes: *const [u32; 4],
    table: *const u8,
    /// What the sums start with.
    bias: *const f32,
    /// Of integers, the bytes of the table for four outputs, 0 for a layer of several groups. Of
    /// floats, those of a row if every node has an edge to every output, else 0.
    bytes: usize,
    inputs: u16,
    outputs: u16,
    /// Of integers the shift, of floats the targets.
    shift_or_targets: *const u16,
    kernel: Option<Kernel>,
    tables: PhantomData<&'m [u32]>,
}

// SAFETY: it stands for shared references to the tables.
#[cfg(kan_kernels)]
unsafe impl Send for Plan<'_> {}
// SAFETY: as above.
#[cfg(kan_kernels)]
unsafe impl Sync for Plan<'_> {}

#[cfg(kan_kernels)]
impl<'m> Plan<'m> {
    /// A layer without a kernel. `None` if there are more than 65 535 nodes.
    pub fn new(nodes: &'m [[u32; 4]], bias: &'m [f32]) -> Option<Self> {
        Some(Self {
            nodes: nodes.as_ptr(),
            table: ptr::null(),
            bias: bias.as_ptr(),
            bytes: 0,
            inputs: u16::try_from(nodes.len()).ok()?,
            outputs: u16::try_from(bias.len()).ok()?,
            shift_or_targets: ptr::null(),
            kernel: None,
            tables: PhantomData,
        })
    }

    /// The nodes that it was made of.
    pub fn nodes(&self) -> &'m [[u32; 4]] {
        // SAFETY: the slice of `new`.
        unsafe { slice::from_raw_parts(self.nodes, self.inputs.into()) }
    }

    /// The biases that it was made of.
    pub fn bias(&self) -> &'m [f32] {
        // SAFETY: the slice of `new`.
        unsafe { slice::from_raw_parts(self.bias, self.outputs.into()) }
    }

    /// Makes it that of tables of integers that have been checked. The table has `rows`, or is of
    /// several groups if there are none.
    #[cfg(kan_integers)]
    pub fn of_integers<T>(&mut self, kernel: Kernel, shift: u32, table: &'m [T], rows: usize) {
        self.table = table.as_ptr().cast();
        self.bytes = 4 * size_of::<T>() * rows;
        self.shift_or_targets = ptr::without_provenance(shift as usize);
        self.kernel = Some(kernel);
    }

    /// Makes it that of tables of floats that have been checked.
    #[cfg(kan_vfp)]
    pub fn of_floats(&mut self, kernel: Kernel, table: &'m [f32], targets: &'m [u16]) {
        let (nodes, outputs) = (usize::from(self.inputs), usize::from(self.outputs));
        // As many edges as there are pairs of nodes: one between each.
        let is_dense = targets.len() == nodes * outputs;
        self.table = table.as_ptr().cast();
        self.bytes = if is_dense { 4 * outputs } else { 0 };
        self.shift_or_targets = targets.as_ptr();
        self.kernel = Some(kernel);
    }

    /// Finds the places of the nodes, and writes the sums of a layer of integers; the inputs are
    /// what is in `sums` if there are no others. `None` unless there is an input and a slot for
    /// every node, and a sum for every output.
    #[cfg(kan_integers)]
    #[inline(always)]
    pub fn run_integers<'s>(
        &self,
        inputs: Option<&[i32]>,
        sums: &mut [i32],
        slots: &'s mut [Slot],
    ) -> Option<&'s [Place]> {
        let count = usize::from(self.inputs);
        let slots = slots.get_mut(..count)?;
        if inputs.unwrap_or(sums).len() < count || sums.len() < usize::from(self.outputs) {
            return None;
        }
        let sums = sums.as_mut_ptr();
        let inputs = inputs.map_or(sums.cast_const(), <[_]>::as_ptr).cast();
        // SAFETY: as many as wanted, and the kernel writes all slots. All inputs are read before
        // the first sum is written.
        unsafe {
            self.kernel?(self, inputs, sums.cast(), slots.as_mut_ptr().cast());
            Some(slots.assume_init_ref())
        }
    }

    /// Whether the layer is of several groups, to be [added](Self::add_groups).
    #[cfg(kan_integers)]
    pub fn is_of_groups(&self) -> bool {
        self.bytes == 0
    }

    /// [`run_integers`](Self::run_integers) without sums.
    #[cfg(kan_integers)]
    pub fn locate<'s>(
        &self,
        inputs: Option<&[i32]>,
        sums: &mut [i32],
        slots: &'s mut [Slot],
    ) -> Option<&'s [Place]> {
        let plan = Self {
            outputs: 0,
            ..*self
        };
        plan.run_integers(inputs, sums, slots)
    }

    /// Phase 2 of a layer of several groups: sets the sums to what leaves the places of its nodes.
    /// `None` unless there is a place for every node and a sum for every output.
    #[cfg(kan_integers)]
    pub fn add_groups<T>(
        &self,
        groups: &[[u16; 2]],
        table: &[T],
        places: &[Place],
        sums: &mut [i32],
    ) -> Option<()> {
        let kernel = self.kernel?;
        if places.len() < usize::from(self.inputs) || sums.len() < usize::from(self.outputs) {
            return None;
        }
        let (mut sums, mut groups) = (sums.as_mut_ptr(), groups.as_ptr_range());
        let mut plan = Self {
            table: table.as_ptr().cast(),
            ..*self
        };
        // SAFETY: `Tables::check` has seen that the groups are whole, that their members are nodes
        // of the layer, that they have the layer's outputs together and as much of the table as is
        // there, up to a whole word each. All start at multiples of four. Without inputs the places
        // are only read.
        unsafe {
            while groups.start < groups.end {
                let [[outputs, count], [low, high]] = groups.start.cast::<[[u16; 2]; 2]>().read();
                groups.start = groups.start.add(2);
                let rows = usize::from(low) | usize::from(high) << 16;
                plan.bytes = 4 * size_of::<T>() * rows;
                plan.outputs = outputs;
                if count == ALL_NODES {
                    plan.inputs = self.inputs;
                    kernel(&plan, ptr::null(), sums.cast(), places.as_ptr().cast_mut());
                } else {
                    let start = plan.bias;
                    let mut left = count;
                    let mut gathered = [const { Slot::uninit() }; GATHERED];
                    while left > 0 {
                        plan.inputs = left.min(GATHERED as u16);
                        left -= plan.inputs;
                        for slot in gathered.iter_mut().take(plan.inputs.into()) {
                            let [node, skipped] = groups.start.read();
                            groups.start = groups.start.add(1);
                            let place = *places.get_unchecked(usize::from(node));
                            // Its row without those that are skipped.
                            let row = place.row - u32::from(skipped);
                            slot.write(Place { row, ..place });
                        }
                        let places = gathered.as_mut_ptr().cast();
                        kernel(&plan, ptr::null(), sums.cast(), places);
                        plan.bias = sums.cast_const().cast();
                    }
                    if count == 0 {
                        // Not by `copy_nonoverlapping`, which is `memcpy` for so few.
                        for k in 0..usize::from(outputs) {
                            sums.add(k).write(start.cast::<i32>().add(k).read());
                        }
                    }
                    plan.bias = start;
                }
                let bytes = size_of::<T>() * rows * usize::from(outputs);
                plan.table = plan.table.add(bytes.next_multiple_of(4));
                plan.bias = plan.bias.add(outputs.into());
                sums = sums.add(outputs.into());
            }
        }
        Some(())
    }

    /// Writes the sums of a layer of floats. `None` unless there is an input for every node and a
    /// sum for every output.
    #[cfg(kan_vfp)]
    #[inline(always)]
    pub fn run_floats(&self, inputs: &[f32], sums: &mut [f32]) -> Option<()> {
        if inputs.len() < usize::from(self.inputs) || sums.len() < usize::from(self.outputs) {
            return None;
        }
        // SAFETY: as many as wanted; of floats places are not looked at.
        unsafe {
            self.kernel?(
                self,
                inputs.as_ptr().cast(),
                sums.as_mut_ptr().cast(),
                ptr::null_mut(),
            );
        }
        Some(())
    }
}

/// A layer where there are no kernels.
#[cfg(not(kan_kernels))]
#[derive(Clone, Copy)]
pub(crate) struct Plan<'m> {
    nodes: &'m [[u32; 4]],
    bias: &'m [f32],
}

#[cfg(not(kan_kernels))]
impl<'m> Plan<'m> {
    pub fn new(nodes: &'m [[u32; 4]], bias: &'m [f32]) -> Option<Self> {
        Some(Self { nodes, bias })
    }

    pub fn nodes(&self) -> &'m [[u32; 4]] {
        self.nodes
    }

    pub fn bias(&self) -> &'m [f32] {
        self.bias
    }
}
