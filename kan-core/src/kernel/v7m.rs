//! Armv7-M, and Armv8-M Mainline without the DSP extension (Cortex-M3; M33 unless the build says
//! more).
//!
//! Nothing takes halves of a word, so that every coefficient is loaded by itself, extended to 32
//! bits, and an MLA takes it: two instructions, for 16 bits and for 8. Loads follow one another
//! where registers allow: only the first of them then takes two cycles. Steps are added and weighed
//! once.
//!
//! All kernels take the same instructions for every input, but not the same cycles on a Cortex-M3:
//! its UMULL, two a node of cubic splines, takes three to five of them, and its UMLAL, one a node,
//! four to seven, the fewer the smaller their factors are.

use core::arch::naked_asm;

use super::{Place, Plan};

/// Differences of 32 bits, whose flags tell how to saturate them: six instructions.
#[rustfmt::skip]
macro_rules! distance {
    ($x:literal, $hi:literal, $width:literal) => {
        concat!(
            "subs ", $x, ", ", $hi, ", ", $x,
            "\nit lt\nmovlt ", $x, ", #0", // else without a sign
            "\nsubs ", $x, ", ", $width, ", ", $x,
            "\nit lo\nmovlo ", $x, ", #0"
        )
    };
}

locate!(
    locate_cubic,
    "r4" "r5" "r6" "r7" "r8",
    ["push {{lr}}", "mov r10, #0", "movt r10, #43691", "movw r11, #5461", "movw lr, #5462"],
    [
        "ubfx r9, r8, #0, #15", // t, Q15
        "mul r7, r9, r9",       // t², Q30
        "lsl r4, r9, #16",
        "umull r4, r5, r7, r4", // t³, Q29
        "rsb r4, r7, r9, lsl #15",
        "sub r4, r11, r4, asr #16", // w0 + w3
        "add r7, r7, r9, lsl #15",
        "sub r7, r7, r5, lsl #1",
        "add r7, lr, r7, asr #16", // w2
        "umull r9, r5, r5, r10",
        "add r5, r5, #32768", // w3 in the upper half
        "rsb r9, r7, #32768",
        "sub r9, r9, r4",          // w1
        "sub r4, r4, r5, lsr #16", // w0
        "bfi r4, r9, #16, #16",
        "bfi r5, r7, #0, #16"
    ],
    ["pop {{pc}}"]
);

locate!(
    locate_linear,
    "r4" "r5" "r6" "r7" "r8",
    [],
    ["ubfx r9, r8, #1, #14", "rsb r4, r9, #16384", "bfi r4, r9, #16, #16"],
    ["bx lr"]
);

locate!(
    locate_step,
    "r7" "r8" "r9" "r10" "r11",
    ["mov r4, #16384", "mov r5, #0"],
    [],
    ["bx lr"]
);

/// Loads a coefficient, of the given number in the place's rows.
macro_rules! load {
    (i16 $to:literal $number:literal) => {
        concat!("ldrsh ", $to, ", [r9, #2*", $number, "]\n")
    };
    (i8 $to:literal $number:literal) => {
        concat!("ldrsb ", $to, ", [r9, #", $number, "]\n")
    };
}

/// Adds a row of four, with the weight in a register.
#[rustfmt::skip] // as the rows are
macro_rules! four {
    ($entry:ident $weight:literal $a:literal $b:literal $c:literal $d:literal) => {
        concat!(
            load!($entry "r10" $a), load!($entry "r11" $b),
            load!($entry "r12" $c), load!($entry "lr" $d),
            "mla r3, r10, ", $weight, ", r3\nmla r4, r11, ", $weight, ", r4\n",
            "mla r5, r12, ", $weight, ", r5\nmla r6, lr, ", $weight, ", r6\n"
        )
    };
}

/// Adds two rows of two, with the weights in registers.
#[rustfmt::skip]
macro_rules! two {
    ($entry:ident $first:literal $second:literal $a:literal $b:literal $c:literal $d:literal) => {
        concat!(
            load!($entry "r10" $a), load!($entry "r11" $b),
            load!($entry "r12" $c), load!($entry "lr" $d),
            "mla r3, r10, ", $first, ", r3\nmla r4, r11, ", $first, ", r4\n",
            "mla r3, r12, ", $second, ", r3\nmla r4, lr, ", $second, ", r4\n"
        )
    };
}

#[rustfmt::skip]
macro_rules! cubic {
    ($name:ident, $entry:ident, $four:literal, $two:literal, $one:literal) => {
        add!(
            $name, locate_cubic,
            $four [] [
                "sxth r10, r7", "asr r7, r7, #16",
                load!($entry "r11" "0"), load!($entry "r12" "1"), load!($entry "lr" "2"),
                "mla r3, r11, r10, r3", "mla r4, r12, r10, r4", "mla r5, lr, r10, r5",
                load!($entry "r11" "3"),
                "mla r6, r11, r10, r6",
                four!($entry "r7" "4" "5" "6" "7"),
                "sxth r7, r8", "asr r8, r8, #16",
                four!($entry "r7" "8" "9" "10" "11"),
                four!($entry "r8" "12" "13" "14" "15")
            ] [],
            $two [
                "sxth r5, r7", "asr r7, r7, #16",
                two!($entry "r5" "r7" "0" "1" "2" "3"),
                "sxth r7, r8", "asr r8, r8, #16",
                two!($entry "r7" "r8" "4" "5" "6" "7")
            ],
            $one [
                load!($entry "r10" "0"), load!($entry "r11" "1"),
                load!($entry "r12" "2"), load!($entry "lr" "3"),
                "sxth r4, r7", "asr r7, r7, #16", "sxth r5, r8", "asr r8, r8, #16",
                "mla r3, r10, r4, r3", "mla r3, r11, r7, r3",
                "mla r3, r12, r5, r3", "mla r3, lr, r8, r3"
            ]
        );
    };
}

#[rustfmt::skip]
macro_rules! linear {
    ($name:ident, $entry:ident, $four:literal, $two:literal, $one:literal) => {
        add!(
            $name, locate_linear,
            $four [] [
                "sxth r8, r7", "asr r7, r7, #16",
                four!($entry "r8" "0" "1" "2" "3"),
                four!($entry "r7" "4" "5" "6" "7")
            ] [],
            $two [
                "sxth r8, r7", "asr r7, r7, #16",
                two!($entry "r8" "r7" "0" "1" "2" "3")
            ],
            $one [
                load!($entry "r10" "0"), load!($entry "r11" "1"),
                "sxth r8, r7", "asr r7, r7, #16",
                "mla r3, r10, r8, r3", "mla r3, r11, r7, r3"
            ]
        );
    };
}

cubic!(cubic_i16, i16, "3", "2", "1");
linear!(linear_i16, i16, "3", "2", "1");
// Their sums fit 16 bits, and of the first and third only those count.
add!(
    step_i16, locate_step,
    "3" ["mov r10, #0", "mov r11, #0", "mov r12, #0", "mov lr, #0"] [
        "ldm r9, {{r7, r8}}",
        "add r10, r10, r7", "add r11, r11, r7, asr #16",
        "add r12, r12, r8", "add lr, lr, r8, asr #16"
    ] [
        "lsl r10, r10, #16", "lsl r12, r12, #16",
        "add r3, r3, r10, asr #2", "add r4, r4, r11, lsl #14",
        "add r5, r5, r12, asr #2", "add r6, r6, lr, lsl #14"
    ],
    "2" [
        "ldrsh r10, [r9]", "ldrsh r11, [r9, #2]",
        "add r3, r3, r10, lsl #14", "add r4, r4, r11, lsl #14"
    ],
    "1" ["ldrsh r10, [r9]", "add r3, r3, r10, lsl #14"]
);

cubic!(cubic_i8, i8, "2", "1", "0");
linear!(linear_i8, i8, "2", "1", "0");
add!(
    step_i8, locate_step,
    "2" [] [
        "ldrsb r10, [r9]", "ldrsb r11, [r9, #1]", "ldrsb r12, [r9, #2]", "ldrsb lr, [r9, #3]",
        "add r3, r3, r10, lsl #14", "add r4, r4, r11, lsl #14",
        "add r5, r5, r12, lsl #14", "add r6, r6, lr, lsl #14"
    ] [],
    "1" [
        "ldrsb r10, [r9]", "ldrsb r11, [r9, #1]",
        "add r3, r3, r10, lsl #14", "add r4, r4, r11, lsl #14"
    ],
    "0" ["ldrsb r10, [r9]", "add r3, r3, r10, lsl #14"]
);
