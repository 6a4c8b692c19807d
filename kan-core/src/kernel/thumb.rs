//! What the kernels for integers of all processors with Thumb-2 have in common: their way through
//! nodes, blocks and places.
//!
//! The module that uses these macros has one of its own: `distance!` makes of an input x, with the
//! registers of its node's hi and width, its distance from the grid's left end, from 0 to the
//! width.

/// Phase 1, for kernels to branch to: from nodes at r0 and inputs at r1, at least one, writes the
/// places from r2 to r3. The shift is in r12; r4 to r11 are free. The registers are of an input, of
/// its node's hi, width, scale and first, which becomes its position; `$weights` makes weights (r4,
/// r5) of that, and r6 is its row.
macro_rules! locate {
    ($name:ident, $x:literal $hi:literal $width:literal $scale:literal $first:literal,
     [$($constants:literal),*], [$($weights:literal),*], [$($end:literal),*]) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                env!("KAN_ASSEMBLER"),
                $($constants,)*
                "2:",
                concat!("ldr ", $x, ", [r1], #4"),
                concat!("ldm r0!, {{", $hi, ", ", $width, ", ", $scale, ", ", $first, "}}"),
                distance!($x, $hi, $width),
                concat!("lsl ", $x, ", ", $x, ", r12"),
                // d·scale + d + first·2³²
                concat!("umlal ", $x, ", ", $first, ", ", $x, ", ", $scale),
                concat!("lsr r6, ", $first, ", #15"),
                $($weights,)*
                "stm r2!, {{r4-r6}}",
                "cmp r2, r3",
                "bne 2b",
                $($end,)*
            )
        }
    };
}

/// A kernel from its phase 1 and what it does in phase 2 for a place (weights in r7 and r8, row in
/// r9, sums from r3 on, table in r1), for blocks of four, two and one outputs, each with the
/// logarithm of a row's bytes.
macro_rules! add {
    ($name:ident, $locate:ident,
     $four:literal [$($first:literal),*] [$($of_four:expr),*] [$($last:literal),*],
     $two:literal [$($of_two:expr),*],
     $one:literal [$($of_one:expr),*]) => {
        /// # Safety
        /// As [`Kernel`](super::Kernel).
        #[unsafe(naked)]
        pub(crate) unsafe extern "C" fn $name(
            plan: *const Plan,
            inputs: *const u32,
            sums: *mut u32,
            places: *mut Place,
        ) {
            naked_asm!(
                env!("KAN_ASSEMBLER"),
                "push {{r4-r11, lr}}",
                "ldm r0, {{r0, r4, r5, r8, r9, r12}}", // nodes, table, bias, bytes, counts, shift
                "mov r6, r2",
                "uxth r10, r9",
                "lsr r9, r9, #16",
                "bic r7, r9, #3",
                "add r7, r6, r7, lsl #2", // where of the sums blocks of four end
                "push {{r3-r9}}",
                "mov r2, r3",
                "add r10, r10, r10, lsl #1",
                "add r3, r2, r10, lsl #2",
                "cbz r1, 2f",
                "bl {locate}",
                "2:",
                "mov r2, r3",
                "ldr r1, [sp, #4]", // table
                "ldrd r9, r10, [sp, #12]", // sums and the end of fours
                "cmp r9, r10",
                "beq 4f",
                "2:",
                "ldr r0, [sp]",
                "ldr r3, [sp, #8]",
                "ldm r3, {{r3-r6}}",
                $($first,)*
                "3:",
                "ldm r0!, {{r7-r9}}",
                concat!("add r9, r1, r9, lsl #", $four),
                $($of_four,)*
                "cmp r0, r2",
                "bne 3b",
                $($last,)*
                "ldrd r9, r10, [sp, #8]", // start and sums
                "stm r10!, {{r3-r6}}",
                "add r9, #16",
                "strd r9, r10, [sp, #8]",
                "ldrd r11, r12, [sp, #16]", // the end of fours and the bytes of a block
                "add r1, r12",
                "cmp r10, r11",
                "bne 2b",
                "4:",
                "ldr r4, [sp, #24]",
                "lsls r4, r4, #31", // two more leave it in the carry
                "bcc 6f",
                "ldr r0, [sp]",
                "ldr r3, [sp, #8]",
                "ldrd r3, r4, [r3]",
                "5:",
                "ldm r0!, {{r7-r9}}",
                concat!("add r9, r1, r9, lsl #", $two),
                $($of_two,)*
                "cmp r0, r2",
                "bne 5b",
                "ldrd r9, r10, [sp, #8]",
                "stm r10!, {{r3, r4}}",
                "add r9, #8",
                "strd r9, r10, [sp, #8]",
                "ldr r12, [sp, #20]",
                "add r1, r1, r12, lsr #1",
                "6:",
                "ldr r4, [sp, #24]",
                "lsls r4, r4, #31", // and one more is the sign
                "bpl 8f",
                "ldr r0, [sp]",
                "ldr r3, [sp, #8]",
                "ldr r3, [r3]",
                "7:",
                "ldm r0!, {{r7-r9}}",
                concat!("add r9, r1, r9, lsl #", $one),
                $($of_one,)*
                "cmp r0, r2",
                "bne 7b",
                "ldr r9, [sp, #12]",
                "str r3, [r9]",
                "8:",
                "add sp, #28",
                "pop {{r4-r11, pc}}",
                locate = sym $locate,
            )
        }
    };
}
