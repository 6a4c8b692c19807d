//! Armv6-M (Cortex-M0, M0+), which has no long products, no packed arithmetic, and lets only eight
//! registers be used freely: blocks of four outputs have their sums in the others.

use core::arch::naked_asm;

use super::Place;

/// Adds to a block of sums what leaves the places, at least one, up to the end.
pub(super) type AddBlock = unsafe extern "C" fn(*const Place, *const Place, *const u8, *mut i32);

/// A kernel: `$row` is the logarithm of a row's bytes, and `$taps` what it does for a place, with
/// weights in r1 and r2 and its rows from r3 on, to sums in r8 to r11. `$first` loads these by way of r4
/// to r7 from what r3 points at, and `$last` makes the sums in r4 to r7 of what was in r8 to r11.
macro_rules! add_block {
    ($name:ident, $row:literal, [$($taps:expr),*]) => {
        add_block!($name, $row, ["ldm r3!, {{r4-r7}}"], [$($taps),*], []);
    };
    ($name:ident, $row:literal, [$($first:literal),*], [$($taps:expr),*], [$($last:literal),*]) => {
        /// # Safety
        /// The places are at least one; their rows and as many as the degree after them are in the
        /// table, which starts at a multiple of four.
        #[unsafe(naked)]
        pub(super) unsafe extern "C" fn $name(
            places: *const Place,
            end: *const Place,
            table: *const u8,
            sums: *mut i32,
        ) {
            naked_asm!(
                "push {{r4-r7, lr}}",
                "mov r4, r8",
                "mov r5, r9",
                "mov r6, r10",
                "mov r7, r11",
                "push {{r3-r7}}",
                "mov r12, r1",
                "mov lr, r2",
                $($first,)*
                "mov r8, r4",
                "mov r9, r5",
                "mov r10, r6",
                "mov r11, r7",
                "2:",
                "ldm r0!, {{r1-r3}}",
                concat!("lsls r3, r3, #", $row),
                "add r3, lr",
                $($taps,)*
                "cmp r0, r12",
                "bne 2b",
                "mov r4, r8",
                "mov r5, r9",
                "mov r6, r10",
                "mov r7, r11",
                "pop {{r3}}",
                $($last,)*
                "stm r3!, {{r4-r7}}",
                "pop {{r4-r7}}",
                "mov r8, r4",
                "mov r9, r5",
                "mov r10, r6",
                "mov r11, r7",
                "pop {{r4-r7, pc}}",
            )
        }
    };
}

/// A row of four 16-bit coefficients; the weight is made in r4.
macro_rules! i16s {
    ($weight:literal) => {
        concat!(
            $weight,
            "\nldm r3!, {{r5, r6}}",
            "\nsxth r7, r5\nmuls r7, r4, r7\nadd r8, r7",
            "\nasrs r5, r5, #16\nmuls r5, r4, r5\nadd r9, r5",
            "\nsxth r7, r6\nmuls r7, r4, r7\nadd r10, r7",
            "\nasrs r6, r6, #16\nmuls r6, r4, r6\nadd r11, r6"
        )
    };
}

/// A row of four 8-bit coefficients.
macro_rules! i8s {
    ($weight:literal) => {
        concat!(
            $weight,
            "\nldm r3!, {{r5}}",
            "\nsxtb r7, r5\nmuls r7, r4, r7\nadd r8, r7",
            "\nlsls r7, r5, #16\nasrs r7, r7, #24\nmuls r7, r4, r7\nadd r9, r7",
            "\nlsls r7, r5, #8\nasrs r7, r7, #24\nmuls r7, r4, r7\nadd r10, r7",
            "\nasrs r5, r5, #24\nmuls r5, r4, r5\nadd r11, r5"
        )
    };
}

add_block!(
    cubic_i16_four,
    "3",
    [
        i16s!("sxth r4, r1"),
        i16s!("asrs r4, r1, #16"),
        i16s!("sxth r4, r2"),
        i16s!("asrs r4, r2, #16")
    ]
);
add_block!(
    linear_i16_four,
    "3",
    [i16s!("sxth r4, r1"), i16s!("asrs r4, r1, #16")]
);
// The weight is 2¹⁴, once for all; of the first and third sums only 16 bits count.
add_block!(
    step_i16_four,
    "3",
    ["movs r4, #0", "movs r5, #0", "movs r6, #0", "movs r7, #0"],
    [
        "ldm r3!, {{r5, r6}}",
        "add r8, r5",
        "asrs r5, r5, #16",
        "add r9, r5",
        "add r10, r6",
        "asrs r6, r6, #16",
        "add r11, r6"
    ],
    [
        "lsls r4, r4, #16",
        "asrs r4, r4, #2",
        "lsls r5, r5, #14",
        "lsls r6, r6, #16",
        "asrs r6, r6, #2",
        "lsls r7, r7, #14",
        "mov r2, r3",
        "ldm r2!, {{r0, r1}}",
        "adds r4, r4, r0",
        "adds r5, r5, r1",
        "ldm r2!, {{r0, r1}}",
        "adds r6, r6, r0",
        "adds r7, r7, r1"
    ]
);
add_block!(
    cubic_i8_four,
    "2",
    [
        i8s!("sxth r4, r1"),
        i8s!("asrs r4, r1, #16"),
        i8s!("sxth r4, r2"),
        i8s!("asrs r4, r2, #16")
    ]
);
add_block!(
    linear_i8_four,
    "2",
    [i8s!("sxth r4, r1"), i8s!("asrs r4, r1, #16")]
);
add_block!(step_i8_four, "2", [i8s!("sxth r4, r1")]);

/// The same for blocks of two or one, with sums in r8 and r9; `$load` and `$store` are by way of r4,
/// with r3 at the sums.
macro_rules! add_few {
    ($name:ident, $row:literal, [$($load:literal),*], [$($taps:expr),*], [$($store:literal),*]) => {
        /// # Safety
        /// The places are at least one; their rows and as many as the degree after them are in the
        /// table, which starts at a multiple of a row's bytes.
        #[unsafe(naked)]
        pub(super) unsafe extern "C" fn $name(
            places: *const Place,
            end: *const Place,
            table: *const u8,
            sums: *mut i32,
        ) {
            naked_asm!(
                "push {{r3-r7, lr}}",
                "mov r4, r8",
                "mov r5, r9",
                "push {{r4, r5}}",
                "mov r12, r1",
                "mov lr, r2",
                $($load,)*
                "2:",
                "ldm r0!, {{r1-r3}}",
                concat!("lsls r3, r3, #", $row),
                "add r3, lr",
                $($taps,)*
                "cmp r0, r12",
                "bne 2b",
                "ldr r3, [sp, #8]",
                $($store,)*
                "pop {{r4, r5}}",
                "mov r8, r4",
                "mov r9, r5",
                "pop {{r3-r7, pc}}",
            )
        }
    };
}

macro_rules! add_two {
    ($name:ident, $row:literal, [$($taps:expr),*]) => {
        add_few!(
            $name, $row,
            ["ldr r4, [r3]", "mov r8, r4", "ldr r4, [r3, #4]", "mov r9, r4"],
            [$($taps),*],
            ["mov r4, r8", "str r4, [r3]", "mov r4, r9", "str r4, [r3, #4]"]
        );
    };
}

macro_rules! add_one {
    ($name:ident, $row:literal, [$($taps:expr),*]) => {
        add_few!(
            $name, $row,
            ["ldr r4, [r3]", "mov r8, r4"],
            [$($taps),*],
            ["mov r4, r8", "str r4, [r3]"]
        );
    };
}

/// A row of two or one 16-bit coefficients, so many bytes from r3.
macro_rules! two_i16s {
    ($weight:literal, $at:literal) => {
        concat!(
            $weight,
            "\nldr r5, [r3, #",
            $at,
            "]\nsxth r7, r5\nmuls r7, r4, r7\nadd r8, r7",
            "\nasrs r5, r5, #16\nmuls r5, r4, r5\nadd r9, r5"
        )
    };
}
macro_rules! one_i16 {
    ($weight:literal, $at:literal) => {
        concat!(
            $weight,
            "\nldrh r5, [r3, #",
            $at,
            "]\nsxth r5, r5\nmuls r5, r4, r5\nadd r8, r5"
        )
    };
}

/// A row of two or one 8-bit coefficients, so many bytes from r3.
macro_rules! two_i8s {
    ($weight:literal, $at:literal) => {
        concat!(
            $weight,
            "\nldrh r5, [r3, #",
            $at,
            "]\nsxtb r7, r5\nmuls r7, r4, r7\nadd r8, r7",
            "\nsxth r5, r5\nasrs r5, r5, #8\nmuls r5, r4, r5\nadd r9, r5"
        )
    };
}
macro_rules! one_i8 {
    ($weight:literal, $at:literal) => {
        concat!(
            $weight,
            "\nldrb r5, [r3, #",
            $at,
            "]\nsxtb r5, r5\nmuls r5, r4, r5\nadd r8, r5"
        )
    };
}

add_two!(
    cubic_i16_two,
    "2",
    [
        two_i16s!("sxth r4, r1", "0"),
        two_i16s!("asrs r4, r1, #16", "4"),
        two_i16s!("sxth r4, r2", "8"),
        two_i16s!("asrs r4, r2, #16", "12")
    ]
);
add_two!(
    linear_i16_two,
    "2",
    [
        two_i16s!("sxth r4, r1", "0"),
        two_i16s!("asrs r4, r1, #16", "4")
    ]
);
add_two!(step_i16_two, "2", [two_i16s!("sxth r4, r1", "0")]);
add_one!(
    cubic_i16_one,
    "1",
    [
        one_i16!("sxth r4, r1", "0"),
        one_i16!("asrs r4, r1, #16", "2"),
        one_i16!("sxth r4, r2", "4"),
        one_i16!("asrs r4, r2, #16", "6")
    ]
);
add_one!(
    linear_i16_one,
    "1",
    [
        one_i16!("sxth r4, r1", "0"),
        one_i16!("asrs r4, r1, #16", "2")
    ]
);
add_one!(step_i16_one, "1", [one_i16!("sxth r4, r1", "0")]);
add_two!(
    cubic_i8_two,
    "1",
    [
        two_i8s!("sxth r4, r1", "0"),
        two_i8s!("asrs r4, r1, #16", "2"),
        two_i8s!("sxth r4, r2", "4"),
        two_i8s!("asrs r4, r2, #16", "6")
    ]
);
add_two!(
    linear_i8_two,
    "1",
    [
        two_i8s!("sxth r4, r1", "0"),
        two_i8s!("asrs r4, r1, #16", "2")
    ]
);
add_two!(step_i8_two, "1", [two_i8s!("sxth r4, r1", "0")]);
add_one!(
    cubic_i8_one,
    "0",
    [
        one_i8!("sxth r4, r1", "0"),
        one_i8!("asrs r4, r1, #16", "1"),
        one_i8!("sxth r4, r2", "2"),
        one_i8!("asrs r4, r2, #16", "3")
    ]
);
add_one!(
    linear_i8_one,
    "0",
    [
        one_i8!("sxth r4, r1", "0"),
        one_i8!("asrs r4, r1, #16", "1")
    ]
);
add_one!(step_i8_one, "0", [one_i8!("sxth r4, r1", "0")]);

/// Phase 1: `nodes`, `inputs`, `places` and its end, and the shift. At least one node.
pub(super) type Locate =
    unsafe extern "C" fn(*const [u32; 4], *const i32, *mut Place, *const Place, u32);

/// A kernel of phase 1 from the instructions that make weights (r5, r6) of a position (r7), and leave
/// r0 as it is; r10 and r11 are theirs.
macro_rules! locate {
    ($name:ident, $one:literal, [$($weights:literal),*]) => {
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
                "push {{r4-r7, lr}}",
                "mov r4, r8",
                "mov r5, r9",
                "mov r6, r10",
                "mov r7, r11",
                "push {{r3-r7}}",
                "ldr r3, [sp, #40]",
                "mov r8, r3",
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
                "pop {{r3-r7}}",
                "mov r8, r4",
                "mov r9, r5",
                "mov r10, r6",
                "mov r11, r7",
                "pop {{r4-r7, pc}}",
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
