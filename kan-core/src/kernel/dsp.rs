//! Armv7E-M, and Armv8-M with the DSP extension (Cortex-M4, M7, M33).
//!
//! Blocks of four outputs keep their sums in registers; a node's rows are consecutive in memory, so
//! that two LDM load the sixteen coefficients of a cubic block, and an SMLA takes each. Steps are
//! added two at a time by SADD16 and weighed once. All kernels take the same instructions for every
//! input.

use core::arch::naked_asm;

use super::{Place, Plan};

/// Differences of 32 bits saturate, and again at 0: four instructions.
#[rustfmt::skip]
macro_rules! distance {
    ($x:literal, $hi:literal, $width:literal) => {
        concat!(
            "qsub ", $x, ", ", $hi, ", ", $x,
            "\nusat ", $x, ", #31, ", $x,
            "\nsub ", $x, ", ", $width, ", ", $x,
            "\nusat ", $x, ", #31, ", $x
        )
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
