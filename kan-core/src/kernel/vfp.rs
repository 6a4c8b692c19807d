//! Armv7E-M and Armv8-M with a unit for floats of single precision (Cortex-M4F, M7, M33).
//!
//! Node by node: first the weights of its coefficients, which stay in registers, then its edges in
//! blocks of eight and of four outputs, whose sums are loaded and stored once for all coefficients.
//! VMLA rounds its product and its sum, so these are the bits of the portable code. All kernels
//! take the same instructions for every input.

use core::arch::naked_asm;

use super::{Place, Plan};

/// Adds the first of a row, at a register, to the sums from s16 on, with the weight in another.
#[rustfmt::skip] // one line for each lane or two
macro_rules! eight {
    ($row:literal, $weight:literal) => {
        concat!(
            "vldmia ", $row, "!, {{s24-s31}}",
            "\nvmla.f32 s16, s24, ", $weight, "\nvmla.f32 s17, s25, ", $weight,
            "\nvmla.f32 s18, s26, ", $weight, "\nvmla.f32 s19, s27, ", $weight,
            "\nvmla.f32 s20, s28, ", $weight, "\nvmla.f32 s21, s29, ", $weight,
            "\nvmla.f32 s22, s30, ", $weight, "\nvmla.f32 s23, s31, ", $weight
        )
    };
}
#[rustfmt::skip]
macro_rules! four {
    ($row:literal, $weight:literal) => {
        concat!(
            "vldmia ", $row, "!, {{s24-s27}}",
            "\nvmla.f32 s16, s24, ", $weight, "\nvmla.f32 s17, s25, ", $weight,
            "\nvmla.f32 s18, s26, ", $weight, "\nvmla.f32 s19, s27, ", $weight
        )
    };
}
macro_rules! one {
    ($row:literal, $weight:literal) => {
        concat!("vldmia ", $row, "!, {{s24}}\nvmla.f32 s16, s24, ", $weight)
    };
}

/// From the interval in r6 and the number of them in r4: the node's first row that counts in r6,
/// and the next node's first in r2, with the bytes of a row in r3.
macro_rules! first_row {
    ($degree:literal) => {
        concat!(
            "add r4, #",
            $degree,
            "\nmla r6, r6, r3, r2\nmla r2, r4, r3, r2"
        )
    };
}

/// A kernel for splines of a degree. `$weights` makes the weights, in registers from s0 on, and the
/// interval, in r6, of the position in s4, with margin and counts in s2 and s3, the number of
/// intervals in r4, and 1 in s10; s11 to s15 are its own constants. `$next` finds the rows after
/// the first, and the pairs are registers of rows and of their weights.
macro_rules! add {
    ($name:ident, $degree:literal, [$($constants:literal),*], [$($weights:literal),*],
     [$($next:literal),*], [$($row:literal $weight:literal),*]) => {
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
                "vpush {{d8-d15}}",
                "mov r12, r2",
                "mov r7, r2",
                "ldm r0, {{r0, r2-r5, lr}}", // nodes, table, bias, bytes, counts, targets
                "push {{lr}}",
                "lsr r11, r5, #16",
                "add r6, r7, r11, lsl #2", // the end of the sums
                "and r11, r11, #7",
                "sub r11, r6, r11, lsl #2", // and of blocks of eight
                "uxth r5, r5",
                "add r5, r0, r5, lsl #4",
                "3:",
                "vldmia r3!, {{s0}}",
                "vstmia r12!, {{s0}}",
                "cmp r12, r6",
                "bne 3b",
                "mov r3, r4",
                "vmov.f32 s10, #1.0",
                $($constants,)*
                // Where to go with weights, and after blocks of eight.
                "adr.w r10, 10f",
                "cmp r3, #0",
                "it eq",
                "moveq r12, r7",
                "beq 2f",
                "adr.w r10, 4f",
                "cmp r7, r11",
                "bne 3f",
                "adr.w r10, 5f",
                "3:",
                "adr.w lr, 9f",
                "tst r3, #12",
                "beq 3f",
                "adr.w lr, 7f",
                "3:",
                "tst r3, #16",
                "beq 2f",
                "adr.w lr, 6f",
                "2:",
                "vldmia r0!, {{s0-s3}}", // lo, intervals per unit, margin, counts
                "ldrh r4, [r0, #-4]",
                "vldmia r1!, {{s4}}",
                "vsub.f32 s4, s4, s0",
                "vmul.f32 s4, s4, s1",
                $($weights,)*
                "mov pc, r10",
                // Blocks of eight.
                "4:",
                first_row!($degree),
                $($next,)*
                "sub r12, r12, r3",
                "3:",
                "vldmia r12, {{s16-s23}}",
                $(eight!($row, $weight),)*
                "vstmia r12!, {{s16-s23}}",
                "cmp r12, r11",
                "bne 3b",
                "mov pc, lr",
                // Less than eight.
                "5:",
                first_row!($degree),
                $($next,)*
                "sub r12, r12, r3",
                "mov pc, lr",
                // A block of four.
                "6:",
                "vldmia r12, {{s16-s19}}",
                $(four!($row, $weight),)*
                "vstmia r12!, {{s16-s19}}",
                // And one by one.
                "7:",
                "ands r4, r3, #12",
                "beq 9f",
                "8:",
                "vldr s16, [r12]",
                $(one!($row, $weight),)*
                "vstmia r12!, {{s16}}",
                "subs r4, #4",
                "bne 8b",
                "9:",
                "cmp r0, r5",
                "bne 2b",
                "add sp, #4",
                "vpop {{d8-d15}}",
                "pop {{r4-r11, pc}}",
                // Edges to some of the outputs, by their targets.
                "10:",
                "ldrh r11, [r0, #-2]",
                "lsl r3, r11, #2",
                first_row!($degree),
                $($next,)*
                "cmp r11, #0",
                "beq 9b",
                "ldr r4, [sp]",
                "11:",
                "ldrh r3, [r4], #2",
                "add r3, r12, r3, lsl #2",
                "vldr s16, [r3]",
                $(one!($row, $weight),)*
                "vstr s16, [r3]",
                "subs r11, #1",
                "bne 11b",
                "str r4, [sp]",
                "b 9b",
            )
        }
    };
}

add!(
    cubic_f32,
    "3",
    [
        "vmov.f32 s11, #0.5", "vmov.f32 s12, #2.0", "vsub.f32 s15, s10, s10",
        "movw r4, #0xaaab", "movt r4, #0x3eaa", "vmov s13, r4", // 1/3
        "vadd.f32 s14, s13, s13"
    ],
    [
        "vcvt.f32.u16 s3, s3, #0", // the right end
        "vmov.f32 s5, s4",
        "vcmp.f32 s4, #0",
        "vmrs APSR_nzcv, fpscr",
        "it le", // or NaN
        "vmovle.f32 s5, s15",
        "vcvt.u32.f32 s6, s4",
        "vmov r6, s6",
        "cmp r6, r4",
        "itt hs",
        "subhs r6, r4, #1",
        "vmovhs.f32 s5, s3", // s5 is the nearest position on the grid
        "vmov s6, r6",
        "vcvt.f32.u32 s6, s6",
        "vsub.f32 s6, s5, s6", // u
        "vsub.f32 s4, s4, s5",
        "vabs.f32 s4, s4",
        "vcmp.f32 s4, s2",
        "vmrs APSR_nzcv, fpscr",
        "it pl", // or NaN
        "vmovpl.f32 s4, s2", // how far beyond
        "vsub.f32 s5, s10, s6", // v
        "vmul.f32 s7, s6, s11",
        "vmul.f32 s8, s5, s11",
        "vmul.f32 s7, s7, s6", // u²/2
        "vmul.f32 s8, s8, s5", // v²/2
        "vsub.f32 s1, s6, s12",
        "vsub.f32 s2, s5, s12",
        "vmul.f32 s3, s7, s6",
        "vmul.f32 s0, s8, s5",
        "vmul.f32 s1, s1, s7",
        "vmul.f32 s2, s2, s8",
        "vmul.f32 s3, s3, s13",
        "vmul.f32 s0, s0, s13",
        "vadd.f32 s1, s1, s14",
        "vadd.f32 s2, s2, s14",
        "vmla.f32 s3, s4, s7",
        "vmla.f32 s0, s4, s8",
        "vmls.f32 s1, s4, s7",
        "vmls.f32 s2, s4, s8"
    ],
    ["add r7, r6, r3", "add r8, r7, r3", "add r9, r8, r3"],
    ["r6" "s0", "r7" "s1", "r8" "s2", "r9" "s3"]
);

add!(
    linear_f32,
    "1",
    [],
    [
        "vcvt.u32.f32 s5, s4",
        "vmov r6, s5",
        "cmp r6, r4",
        "it hs",
        "subhs r6, r4, #1",
        "vmov s5, r6",
        "vcvt.f32.u32 s5, s5",
        "vsub.f32 s1, s4, s5",
        "vneg.f32 s5, s2",
        "vcmp.f32 s1, s5",
        "vmrs APSR_nzcv, fpscr",
        "it le", // or NaN
        "vmovle.f32 s1, s5",
        "vadd.f32 s5, s2, s10",
        "vcmp.f32 s1, s5",
        "vmrs APSR_nzcv, fpscr",
        "it gt",
        "vmovgt.f32 s1, s5",
        "vsub.f32 s0, s10, s1"
    ],
    ["add r7, r6, r3"],
    ["r6" "s0", "r7" "s1"]
);

add!(
    step_f32,
    "0",
    [],
    [
        "vcvt.u32.f32 s5, s4",
        "vmov r6, s5",
        "cmp r6, r4",
        "it hs",
        "subhs r6, r4, #1"
    ],
    [],
    ["r6" "s10"]
);
