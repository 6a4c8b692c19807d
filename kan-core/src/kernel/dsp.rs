//! Armv7E-M, and Armv8-M with the DSP extension (Cortex-M4, M7, M33).
//!
//! Blocks of four outputs keep their sums in registers; a node's rows are consecutive in memory, so
//! that two LDM load the sixteen coefficients of a cubic block, and an SMLA takes each. Steps are
//! added two at a time by SADD16 and weighed once. All kernels take the same instructions for every
//! input.

use core::arch::naked_asm;

use super::Place;

/// What a kernel of phase 2 works on; it counts `start`, `sums` and `outputs`.
#[repr(C)]
pub(super) struct Work {
    pub places: *const Place,
    pub places_end: *const Place,
    pub table: *const u8,
    /// What the sums start with.
    pub start: *const i32,
    pub outputs: usize,
    pub rows: usize,
    pub sums: *mut i32,
}

/// Phase 1: `nodes`, `inputs`, `places` and its end, and the shift. At least one node.
pub(super) type Locate =
    unsafe extern "C" fn(*const [u32; 4], *const i32, *mut Place, *const Place, u32);

/// Phase 2. At least one place.
pub(super) type Add = unsafe extern "C" fn(*mut Work);

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

/// A kernel of phase 1 from the instructions that make weights (r4, r5) of a position (r8), and leave
/// its row in r6; r10, r11 and lr hold the constants of cubic weights.
macro_rules! locate {
    ($name:ident, $($weights:literal),*) => {
        /// # Safety
        /// The nodes and inputs are as many as places up to the end, and at least one; the shift is
        /// less than 32. The places may be uninitialised.
        #[unsafe(naked)]
        pub(super) unsafe extern "C" fn $name(
            nodes: *const [u32; 4],
            inputs: *const i32,
            places: *mut Place,
            end: *const Place,
            shift: u32,
        ) {
            naked_asm!(
                extension!(),
                "push {{r4-r11, lr}}",
                "ldr r12, [sp, #36]",
                "movw r10, #43691",
                "movw r11, #5461",
                "movw lr, #5462",
                "2:",
                "ldr r4, [r1], #4",
                "ldm r0!, {{r5-r8}}", // hi, width, scale, first
                "qsub r4, r5, r4",
                "usat r4, #31, r4",
                "sub r4, r6, r4",
                "usat r4, #31, r4",
                "lsl r4, r4, r12",
                "umlal r4, r8, r4, r7", // d·scale + d + first·2³²
                "lsr r6, r8, #15",
                $($weights,)*
                "stm r2!, {{r4-r6}}",
                "cmp r2, r3",
                "bne 2b",
                "pop {{r4-r11, pc}}",
            )
        }
    };
}

locate!(
    locate_cubic,
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
);

locate!(
    locate_linear,
    "ubfx r9, r8, #1, #14",
    "rsb r4, r9, #16384",
    "pkhbt r4, r4, r9, lsl #16"
);

locate!(locate_step, "mov r5, #0", "mov r4, #16384");

/// A kernel of phase 2 from what it does for a place (weights in r7 and r8, row in r9, sums from r3
/// on, table in r1), for blocks of four, two and one outputs, each with the logarithm of a row's bytes.
macro_rules! add {
    ($name:ident,
     $four:literal [$($first:literal),*] [$($of_four:literal),*] [$($last:literal),*],
     $two:literal [$($of_two:literal),*],
     $one:literal [$($of_one:literal),*]) => {
        /// # Safety
        /// The places are at least one, and their rows and as many as the degree after them are among
        /// the rows of the table; it has `rows` of each output, in blocks, and starts at a multiple of
        /// four; starts and sums are as many as the outputs.
        #[unsafe(naked)]
        pub(super) unsafe extern "C" fn $name(work: *mut Work) {
            naked_asm!(
                extension!(),
                "push {{r0, r4-r11, lr}}",
                "ldr r1, [r0, #8]",
                "ldr r4, [r0, #16]",
                "subs r4, #4",
                "blo 4f",
                "2:",
                "str r4, [r0, #16]",
                "ldr r2, [r0, #4]",
                "ldr r3, [r0, #12]",
                "ldr r0, [r0]",
                "ldm r3, {{r3-r6}}",
                $($first,)*
                "3:",
                "ldm r0!, {{r7-r9}}",
                concat!("add r9, r1, r9, lsl #", $four),
                $($of_four,)*
                "cmp r0, r2",
                "bne 3b",
                $($last,)*
                "ldr r0, [sp]",
                "add r9, r0, #12",
                "ldm r9, {{r9-r12}}",
                "stm r12!, {{r3-r6}}",
                "add r9, #16",
                concat!("add r1, r1, r11, lsl #", $four),
                "mov r4, r10",
                "str r9, [r0, #12]",
                "str r12, [r0, #24]",
                "subs r4, #4",
                "bhs 2b",
                "4:",
                "str r4, [r0, #16]",
                "lsls r4, r4, #31", // less 4: that leaves two more in the carry
                "bcc 6f",
                "ldr r2, [r0, #4]",
                "ldr r3, [r0, #12]",
                "ldr r0, [r0]",
                "ldrd r3, r4, [r3]",
                "5:",
                "ldm r0!, {{r7-r9}}",
                concat!("add r9, r1, r9, lsl #", $two),
                $($of_two,)*
                "cmp r0, r2",
                "bne 5b",
                "ldr r0, [sp]",
                "add r9, r0, #12",
                "ldm r9, {{r9-r12}}",
                "stm r12!, {{r3, r4}}",
                "add r9, #8",
                concat!("add r1, r1, r11, lsl #", $two),
                "str r9, [r0, #12]",
                "str r12, [r0, #24]",
                "6:",
                "ldr r4, [r0, #16]",
                "lsls r4, r4, #31", // and one more in the sign
                "bpl 8f",
                "ldr r2, [r0, #4]",
                "ldr r3, [r0, #12]",
                "ldr r0, [r0]",
                "ldr r3, [r3]",
                "7:",
                "ldm r0!, {{r7-r9}}",
                concat!("add r9, r1, r9, lsl #", $one),
                $($of_one,)*
                "cmp r0, r2",
                "bne 7b",
                "ldr r0, [sp]",
                "ldr r9, [r0, #24]",
                "str r3, [r9]",
                "8:",
                "pop {{r0, r4-r11, pc}}",
            )
        }
    };
}

add!(
    add_cubic_i16,
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
    add_linear_i16,
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
    add_step_i16,
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
    add_cubic_i8,
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
    add_linear_i8,
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
    add_step_i8,
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
