//! Armv7E-M, and Armv8-M with the DSP extension (Cortex-M4, M7, M33).
//!
//! Blocks of four outputs keep their sums in registers; a node's rows are consecutive in memory, so
//! that two LDM load the sixteen coefficients of a cubic block, and an SMLA takes each. Steps are
//! added two at a time by SADD16 and weighed once. All kernels take the same instructions for every
//! input.

use core::arch::naked_asm;

use super::{Place, Plan};

/// What makes the assembler accept the extension on a Cortex-M33.
#[cfg(kan_m33)]
macro_rules! extension {
    () => {
        ".cpu cortex-m33"
    };
}
#[cfg(not(kan_m33))]
macro_rules! extension {
    () => {
        ""
    };
}

/// Phase 1, for kernels to branch to: from nodes at r0 and inputs at r1, at least one, writes the places
/// from r2 to r3. The shift is in r12; r4 to r11 are free. The registers are of an input, of its node's hi,
/// width, scale and first, which becomes its position; `$weights` makes weights (r4, r5) of that, and r6
/// is its row.
macro_rules! locate {
    ($name:ident, $x:literal $hi:literal $width:literal $scale:literal $first:literal,
     [$($constants:literal),*], [$($weights:literal),*], [$($end:literal),*]) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                extension!(),
                $($constants,)*
                "2:",
                concat!("ldr ", $x, ", [r1], #4"),
                concat!("ldm r0!, {{", $hi, ", ", $width, ", ", $scale, ", ", $first, "}}"),
                concat!("qsub ", $x, ", ", $hi, ", ", $x),
                concat!("usat ", $x, ", #31, ", $x),
                concat!("sub ", $x, ", ", $width, ", ", $x),
                concat!("usat ", $x, ", #31, ", $x),
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

locate!(
    locate_cubic,
    "r4" "r5" "r6" "r7" "r8",
    ["push {{lr}}", "movw r10, #43691", "movw r11, #5461", "movw lr, #5462"],
    [
        "ubfx r9, r8, #0, #15", // t, Q15
        "mul r7, r9, r9",       // t², Q30
        "smulwb r8, r7, r9",    // t³, Q29
        "rsb r4, r7, r9, lsl #15",
        "sub r4, r11, r4, asr #16", // w0 + w3
        "add r5, r7, r9, lsl #15",
        "sub r5, r5, r8, lsl #1",
        "add r5, lr, r5, asr #16", // w2
        "smmulr r8, r8, r10",      // w3
        "rsb r7, r5, #32768",
        "sub r7, r7, r4", // w1
        "sub r4, r4, r8", // w0
        "pkhbt r4, r4, r7, lsl #16",
        "pkhbt r5, r5, r8, lsl #16"
    ],
    ["pop {{pc}}"]
);

locate!(
    locate_linear,
    "r4" "r5" "r6" "r7" "r8",
    [],
    ["ubfx r9, r8, #1, #14", "rsb r4, r9, #16384", "pkhbt r4, r4, r9, lsl #16"],
    ["bx lr"]
);

locate!(
    locate_step,
    "r7" "r8" "r9" "r10" "r11",
    ["mov r4, #16384", "mov r5, #0"],
    [],
    ["bx lr"]
);

/// A kernel from its phase 1 and what it does in phase 2 for a place (weights in r7 and r8, row in r9,
/// sums from r3 on, table in r1), for blocks of four, two and one outputs, each with the logarithm of a
/// row's bytes.
macro_rules! add {
    ($name:ident, $locate:ident,
     $four:literal [$($first:literal),*] [$($of_four:literal),*] [$($last:literal),*],
     $two:literal [$($of_two:literal),*],
     $one:literal [$($of_one:literal),*]) => {
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
                extension!(),
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

add!(
    cubic_i16, locate_cubic,
    "3" [] [
        "ldm r9!, {{r10-r12, lr}}",
        "smlabb r3, r10, r7, r3", "smlatb r4, r10, r7, r4",
        "smlabb r5, r11, r7, r5", "smlatb r6, r11, r7, r6",
        "smlabt r3, r12, r7, r3", "smlatt r4, r12, r7, r4",
        "smlabt r5, lr, r7, r5", "smlatt r6, lr, r7, r6",
        "ldm r9, {{r10-r12, lr}}",
        "smlabb r3, r10, r8, r3", "smlatb r4, r10, r8, r4",
        "smlabb r5, r11, r8, r5", "smlatb r6, r11, r8, r6",
        "smlabt r3, r12, r8, r3", "smlatt r4, r12, r8, r4",
        "smlabt r5, lr, r8, r5", "smlatt r6, lr, r8, r6"
    ] [],
    "2" [
        "ldm r9, {{r9-r12}}",
        "smlabb r3, r9, r7, r3", "smlatb r4, r9, r7, r4",
        "smlabt r3, r10, r7, r3", "smlatt r4, r10, r7, r4",
        "smlabb r3, r11, r8, r3", "smlatb r4, r11, r8, r4",
        "smlabt r3, r12, r8, r3", "smlatt r4, r12, r8, r4"
    ],
    "1" [
        "ldr r10, [r9]", "ldr r11, [r9, #4]",
        "smlad r3, r10, r7, r3", "smlad r3, r11, r8, r3"
    ]
);

add!(
    linear_i16, locate_linear,
    "3" [] [
        "ldm r9, {{r10-r12, lr}}",
        "smlabb r3, r10, r7, r3", "smlatb r4, r10, r7, r4",
        "smlabb r5, r11, r7, r5", "smlatb r6, r11, r7, r6",
        "smlabt r3, r12, r7, r3", "smlatt r4, r12, r7, r4",
        "smlabt r5, lr, r7, r5", "smlatt r6, lr, r7, r6"
    ] [],
    "2" [
        "ldm r9, {{r10, r11}}",
        "smlabb r3, r10, r7, r3", "smlatb r4, r10, r7, r4",
        "smlabt r3, r11, r7, r3", "smlatt r4, r11, r7, r4"
    ],
    "1" ["ldr r10, [r9]", "smlad r3, r10, r7, r3"]
);

add!(
    step_i16, locate_step,
    "3" ["mov r12, #0", "mov lr, #0"] [
        "ldm r9, {{r10, r11}}", // their sums fit 16 bits
        "sadd16 r12, r12, r10", "sadd16 lr, lr, r11"
    ] [
        "smlabb r3, r12, r7, r3", "smlatb r4, r12, r7, r4",
        "smlabb r5, lr, r7, r5", "smlatb r6, lr, r7, r6"
    ],
    "2" ["ldr r10, [r9]", "smlabb r3, r10, r7, r3", "smlatb r4, r10, r7, r4"],
    "1" ["ldrh r10, [r9]", "smlabb r3, r10, r7, r3"]
);

add!(
    cubic_i8, locate_cubic,
    "2" [] [
        "ldm r9, {{r9-r12}}",
        "sxtb16 lr, r9", "smlabb r3, lr, r7, r3", "smlatb r5, lr, r7, r5",
        "sxtb16 lr, r9, ror #8", "smlabb r4, lr, r7, r4", "smlatb r6, lr, r7, r6",
        "sxtb16 lr, r10", "smlabt r3, lr, r7, r3", "smlatt r5, lr, r7, r5",
        "sxtb16 lr, r10, ror #8", "smlabt r4, lr, r7, r4", "smlatt r6, lr, r7, r6",
        "sxtb16 lr, r11", "smlabb r3, lr, r8, r3", "smlatb r5, lr, r8, r5",
        "sxtb16 lr, r11, ror #8", "smlabb r4, lr, r8, r4", "smlatb r6, lr, r8, r6",
        "sxtb16 lr, r12", "smlabt r3, lr, r8, r3", "smlatt r5, lr, r8, r5",
        "sxtb16 lr, r12, ror #8", "smlabt r4, lr, r8, r4", "smlatt r6, lr, r8, r6"
    ] [],
    "1" [
        "ldr r10, [r9]", "ldr r11, [r9, #4]", // two rows of two each
        "sxtb16 lr, r10", "smlad r3, lr, r7, r3",
        "sxtb16 lr, r10, ror #8", "smlad r4, lr, r7, r4",
        "sxtb16 lr, r11", "smlad r3, lr, r8, r3",
        "sxtb16 lr, r11, ror #8", "smlad r4, lr, r8, r4"
    ],
    "0" [
        "ldr r10, [r9]",
        "sxtb16 r11, r10", "smlabb r3, r11, r7, r3", "smlatb r3, r11, r8, r3",
        "sxtb16 r11, r10, ror #8", "smlabt r3, r11, r7, r3", "smlatt r3, r11, r8, r3"
    ]
);

add!(
    linear_i8, locate_linear,
    "2" [] [
        "ldm r9, {{r10, r11}}",
        "sxtb16 lr, r10", "smlabb r3, lr, r7, r3", "smlatb r5, lr, r7, r5",
        "sxtb16 lr, r10, ror #8", "smlabb r4, lr, r7, r4", "smlatb r6, lr, r7, r6",
        "sxtb16 lr, r11", "smlabt r3, lr, r7, r3", "smlatt r5, lr, r7, r5",
        "sxtb16 lr, r11, ror #8", "smlabt r4, lr, r7, r4", "smlatt r6, lr, r7, r6"
    ] [],
    "1" [
        "ldr r10, [r9]",
        "sxtb16 lr, r10", "smlad r3, lr, r7, r3",
        "sxtb16 lr, r10, ror #8", "smlad r4, lr, r7, r4"
    ],
    "0" [
        "ldrsb r10, [r9]", "smlabb r3, r10, r7, r3",
        "ldrsb r10, [r9, #1]", "smlabt r3, r10, r7, r3"
    ]
);

add!(
    step_i8, locate_step,
    "2" ["mov r12, #0", "mov lr, #0"] [
        "ldr r10, [r9]",
        "sxtab16 r12, r12, r10", "sxtab16 lr, lr, r10, ror #8"
    ] [
        "smlabb r3, r12, r7, r3", "smlatb r5, r12, r7, r5",
        "smlabb r4, lr, r7, r4", "smlatb r6, lr, r7, r6"
    ],
    "1" [
        "ldrsb r10, [r9]", "smlabb r3, r10, r7, r3",
        "ldrsb r10, [r9, #1]", "smlabb r4, r10, r7, r4"
    ],
    "0" ["ldrsb r10, [r9]", "smlabb r3, r10, r7, r3"]
);
