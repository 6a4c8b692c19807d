//! Armv6-M (Cortex-M0, M0+), which has no long products, no packed arithmetic, and lets only eight
//! registers be used freely: blocks of four outputs have their sums in the others.

use core::arch::naked_asm;

use super::{Place, Plan};

/// Phase 1, for kernels to branch to: from nodes at r0 and inputs at r1, at least one, writes the
/// places from r2 to r3, which it keeps. The shift is in r8; all other registers are free.
/// `$weights` makes weights (r5, r6) of a position (r7), and leaves r0 as it is; r10 and r11 are
/// its own constants.
macro_rules! locate {
    ($name:ident, $one:literal, [$($weights:literal),*]) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                "push {{r3, lr}}",
                "mov r9, r1",
                "mov r12, r2",
                "movs r1, #1",
                "lsls r1, r1, #31",
                "mov lr, r1",
                concat!("ldr r1, =", $one),
                "mov r10, r1",
                "ldr r1, =43691",
                "mov r11, r1",
                "2:",
                "mov r2, r9",
                "ldm r2!, {{r1}}",
                "mov r9, r2",
                "ldm r0!, {{r4-r7}}", // hi, width, scale, first
                "subs r4, r4, r5",
                "add r4, lr", // unsigned numbers now, so that the carry tells which is greater
                "add r1, lr",
                "subs r1, r1, r4",
                "sbcs r3, r3",
                "bics r1, r3", // at least 0
                "subs r3, r1, r5",
                "sbcs r4, r4",
                "ands r3, r4",
                "adds r1, r5, r3", // at most the width
                "mov r2, r8",
                "lsls r1, r2", // d, less than 2³¹
                "uxth r2, r1", // its halves, r2 and r1
                "lsrs r1, r1, #16",
                "uxth r3, r6", // and those of the scale, r3 with the 1 more, and r4
                "adds r3, #1",
                "lsrs r4, r6, #16",
                "mov r5, r2",
                "muls r5, r3, r5", // less than 2³², and r3 less than 2³¹
                "muls r3, r1, r3",
                "muls r2, r4, r2",
                "muls r1, r4, r1",
                "lsrs r5, r5, #16",
                "adds r3, r3, r5",
                "uxth r5, r3",
                "adds r2, r2, r5",
                "lsrs r3, r3, #16",
                "lsrs r2, r2, #16",
                "adds r1, r1, r2",
                "adds r1, r1, r3",
                "adds r7, r7, r1",
                $($weights,)*
                "lsrs r7, r7, #15",
                "mov r1, r12",
                "stm r1!, {{r5-r7}}",
                "mov r12, r1",
                "ldr r2, [sp]",
                "cmp r1, r2",
                "bne 2b",
                "pop {{r3, pc}}",
                ".p2align 2",
                ".ltorg",
            )
        }
    };
}

locate!(
    locate_cubic,
    "5461",
    [
        "lsls r1, r7, #17",
        "lsrs r1, r1, #17", // t, Q15
        "mov r2, r1",
        "muls r2, r1, r2", // t², Q30
        "lsrs r3, r2, #16",
        "muls r3, r1, r3",
        "uxth r4, r2",
        "muls r4, r1, r4",
        "lsrs r4, r4, #16",
        "adds r3, r3, r4", // t³, Q29
        "lsls r1, r1, #15",
        "adds r6, r1, r2",
        "subs r6, r6, r3",
        "subs r6, r6, r3",
        "asrs r6, r6, #16",
        "subs r1, r1, r2",
        "asrs r1, r1, #16",
        "mov r2, r10",
        "adds r6, r6, r2",
        "adds r6, #1",     // w2
        "subs r5, r2, r1", // w0 + w3
        "mov r2, r11",
        "uxth r4, r3",
        "lsrs r3, r3, #16",
        "muls r4, r2, r4",
        "muls r3, r2, r3",
        "lsrs r4, r4, #16",
        "adds r3, r3, r4",
        "movs r4, #1",
        "lsls r4, r4, #15",
        "adds r3, r3, r4",
        "lsrs r3, r3, #16", // w3
        "subs r4, r4, r6",
        "subs r4, r4, r5", // w1
        "subs r5, r5, r3", // w0
        "uxth r5, r5",
        "lsls r4, r4, #16",
        "orrs r5, r4",
        "uxth r6, r6",
        "lsls r3, r3, #16",
        "orrs r6, r3"
    ]
);

locate!(
    locate_linear,
    "16384",
    [
        "lsls r1, r7, #17",
        "lsrs r1, r1, #18",
        "mov r5, r10",
        "subs r5, r5, r1",
        "lsls r1, r1, #16",
        "orrs r5, r1"
    ]
);

locate!(locate_step, "16384", ["mov r5, r10"]);

/// A kernel from its phase 1 and what it does in phase 2 for a place, with weights in r1 and r2 and
/// its rows from r3 on, to sums in r8 to r11, for blocks of four, two and one outputs, each with
/// the logarithm of a row's bytes. `$first` puts into r4 to r7 what sums start with, by way of r3,
/// and `$last` makes the sums of what they have become.
macro_rules! add {
    ($name:ident, $locate:ident,
     $four:literal [$($first:literal),*] [$of_four:expr] [$($last:literal),*],
     $two:literal [$of_two:expr],
     $one:literal [$of_one:expr]) => {
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
                "push {{r4-r7, lr}}",
                "mov r4, r8",
                "mov r5, r9",
                "mov r6, r10",
                "mov r7, r11",
                "push {{r4-r7}}",
                "sub sp, #28",
                "str r3, [sp]",
                "ldr r4, [r0, #4]",
                "str r4, [sp, #4]", // table
                "mov lr, r4",
                "ldr r4, [r0, #8]",
                "str r4, [sp, #8]", // what sums start with
                "str r2, [sp, #12]",
                "ldr r4, [r0, #16]",
                "uxth r5, r4",
                "lsrs r4, r4, #16",
                "str r4, [sp, #24]", // outputs
                "lsrs r4, r4, #2",
                "lsls r4, r4, #4",
                "adds r4, r4, r2",
                "str r4, [sp, #16]", // where of the sums blocks of four end
                "ldr r4, [r0, #12]",
                "str r4, [sp, #20]", // bytes of a block
                "mov r2, r3",
                "movs r4, #12",
                "muls r5, r4, r5",
                "adds r3, r3, r5",
                "mov r12, r3",
                "cmp r1, #0",
                "beq 2f",
                "ldr r4, [r0, #20]",
                "mov r8, r4", // shift
                "ldr r0, [r0]",
                "bl {locate}",
                "mov r12, r3",
                "ldr r4, [sp, #4]",
                "mov lr, r4",
                "2:",
                "ldr r1, [sp, #12]",
                "ldr r2, [sp, #16]",
                "cmp r1, r2",
                "beq 4f",
                "2:",
                "ldr r0, [sp]",
                $($first,)*
                "mov r8, r4",
                "mov r9, r5",
                "mov r10, r6",
                "mov r11, r7",
                "3:",
                "ldm r0!, {{r1-r3}}",
                concat!("lsls r3, r3, #", $four),
                "add r3, lr",
                $of_four,
                "cmp r0, r12",
                "bne 3b",
                "mov r4, r8",
                "mov r5, r9",
                "mov r6, r10",
                "mov r7, r11",
                $($last,)*
                "ldr r3, [sp, #12]",
                "stm r3!, {{r4-r7}}",
                "str r3, [sp, #12]",
                "ldr r4, [sp, #20]", // the bytes of a block
                "add lr, r4",
                "ldr r4, [sp, #16]",
                "cmp r3, r4",
                "bne 2b",
                "4:",
                "ldr r4, [sp, #24]",
                "lsls r4, r4, #31", // two more leave it in the carry
                "bcc 6f",
                "ldr r0, [sp]",
                "ldr r3, [sp, #8]", // start
                "ldm r3!, {{r4, r5}}",
                "str r3, [sp, #8]",
                "mov r8, r4",
                "mov r9, r5",
                "5:",
                "ldm r0!, {{r1-r3}}",
                concat!("lsls r3, r3, #", $two),
                "add r3, lr",
                $of_two,
                "cmp r0, r12",
                "bne 5b",
                "mov r4, r8",
                "mov r5, r9",
                "ldr r3, [sp, #12]",
                "stm r3!, {{r4, r5}}",
                "str r3, [sp, #12]",
                "ldr r4, [sp, #20]",
                "lsrs r4, r4, #1",
                "add lr, r4",
                "6:",
                "ldr r4, [sp, #24]",
                "lsls r4, r4, #31", // and one more is the sign
                "bpl 8f",
                "ldr r0, [sp]",
                "ldr r3, [sp, #8]",
                "ldr r4, [r3]",
                "mov r8, r4",
                "7:",
                "ldm r0!, {{r1-r3}}",
                concat!("lsls r3, r3, #", $one),
                "add r3, lr",
                $of_one,
                "cmp r0, r12",
                "bne 7b",
                "mov r4, r8",
                "ldr r3, [sp, #12]",
                "str r4, [r3]",
                "8:",
                "add sp, #28",
                "pop {{r4-r7}}",
                "mov r8, r4",
                "mov r9, r5",
                "mov r10, r6",
                "mov r11, r7",
                "pop {{r4-r7, pc}}",
                locate = sym $locate,
            )
        }
    };
    ($name:ident, $locate:ident,
     $four:literal [$of_four:expr], $two:literal [$of_two:expr], $one:literal [$of_one:expr]) => {
        add!(
            $name, $locate,
            $four ["ldr r3, [sp, #8]", "ldm r3!, {{r4-r7}}", "str r3, [sp, #8]"] [$of_four] [],
            $two [$of_two],
            $one [$of_one]
        );
    };
}

/// All rows of a place: the weight of each is made in r4, and given with its number.
#[rustfmt::skip]
macro_rules! cubic {
    ($row:ident) => {
        concat!(
            $row!("sxth r4, r1", "0"), $row!("asrs r4, r1, #16", "1"),
            $row!("sxth r4, r2", "2"), $row!("asrs r4, r2, #16", "3")
        )
    };
}
#[rustfmt::skip]
macro_rules! linear {
    ($row:ident) => {
        concat!($row!("sxth r4, r1", "0"), $row!("asrs r4, r1, #16", "1"))
    };
}
macro_rules! step {
    ($row:ident) => {
        $row!("sxth r4, r1", "0")
    };
}

/// A row of four, two or one 16-bit coefficients. Rows of whole words are read one after the other.
#[rustfmt::skip]
macro_rules! four_i16 {
    ($weight:literal, $row:literal) => {
        concat!(
            $weight,
            "\nldm r3!, {{r5, r6}}",
            "\nsxth r7, r5\nmuls r7, r4, r7\nadd r8, r7",
            "\nasrs r5, r5, #16\nmuls r5, r4, r5\nadd r9, r5",
            "\nsxth r7, r6\nmuls r7, r4, r7\nadd r10, r7",
            "\nasrs r6, r6, #16\nmuls r6, r4, r6\nadd r11, r6\n"
        )
    };
}
#[rustfmt::skip]
macro_rules! two_i16 {
    ($weight:literal, $row:literal) => {
        concat!(
            $weight,
            "\nldm r3!, {{r5}}",
            "\nsxth r7, r5\nmuls r7, r4, r7\nadd r8, r7",
            "\nasrs r5, r5, #16\nmuls r5, r4, r5\nadd r9, r5\n"
        )
    };
}
#[rustfmt::skip]
macro_rules! one_i16 {
    ($weight:literal, $row:literal) => {
        concat!(
            $weight,
            "\nldrh r5, [r3, #2*", $row, "]",
            "\nsxth r5, r5\nmuls r5, r4, r5\nadd r8, r5\n"
        )
    };
}

/// A row of 8-bit coefficients.
#[rustfmt::skip]
macro_rules! four_i8 {
    ($weight:literal, $row:literal) => {
        concat!(
            $weight,
            "\nldm r3!, {{r5}}",
            "\nsxtb r7, r5\nmuls r7, r4, r7\nadd r8, r7",
            "\nlsls r7, r5, #16\nasrs r7, r7, #24\nmuls r7, r4, r7\nadd r9, r7",
            "\nlsls r7, r5, #8\nasrs r7, r7, #24\nmuls r7, r4, r7\nadd r10, r7",
            "\nasrs r5, r5, #24\nmuls r5, r4, r5\nadd r11, r5\n"
        )
    };
}
#[rustfmt::skip]
macro_rules! two_i8 {
    ($weight:literal, $row:literal) => {
        concat!(
            $weight,
            "\nldrh r5, [r3, #2*", $row, "]",
            "\nsxtb r7, r5\nmuls r7, r4, r7\nadd r8, r7",
            "\nsxth r5, r5\nasrs r5, r5, #8\nmuls r5, r4, r5\nadd r9, r5\n"
        )
    };
}
#[rustfmt::skip]
macro_rules! one_i8 {
    ($weight:literal, $row:literal) => {
        concat!(
            $weight,
            "\nldrb r5, [r3, #", $row, "]",
            "\nsxtb r5, r5\nmuls r5, r4, r5\nadd r8, r5\n"
        )
    };
}

add!(
    cubic_i16,
    locate_cubic,
    "3"[cubic!(four_i16)],
    "2"[cubic!(two_i16)],
    "1"[cubic!(one_i16)]
);
add!(
    linear_i16,
    locate_linear,
    "3"[linear!(four_i16)],
    "2"[linear!(two_i16)],
    "1"[linear!(one_i16)]
);
// Four sums are weighed once for all, by 2¹⁴; of the first and third only 16 bits count.
add!(
    step_i16, locate_step,
    "3" ["movs r4, #0", "movs r5, #0", "movs r6, #0", "movs r7, #0"] [
        "ldm r3!, {{r5, r6}}\nadd r8, r5\nasrs r5, r5, #16\nadd r9, r5
        add r10, r6\nasrs r6, r6, #16\nadd r11, r6"
    ] [
        "lsls r4, r4, #16", "asrs r4, r4, #2", "lsls r5, r5, #14",
        "lsls r6, r6, #16", "asrs r6, r6, #2", "lsls r7, r7, #14",
        "ldr r3, [sp, #8]",
        "ldm r3!, {{r0-r2}}",
        "adds r4, r4, r0", "adds r5, r5, r1", "adds r6, r6, r2",
        "ldm r3!, {{r0}}",
        "adds r7, r7, r0",
        "str r3, [sp, #8]"
    ],
    "2" [step!(two_i16)],
    "1" [step!(one_i16)]
);
add!(
    cubic_i8,
    locate_cubic,
    "2"[cubic!(four_i8)],
    "1"[cubic!(two_i8)],
    "0"[cubic!(one_i8)]
);
add!(
    linear_i8,
    locate_linear,
    "2"[linear!(four_i8)],
    "1"[linear!(two_i8)],
    "0"[linear!(one_i8)]
);
add!(
    step_i8,
    locate_step,
    "2"[step!(four_i8)],
    "1"[step!(two_i8)],
    "0"[step!(one_i8)]
);
