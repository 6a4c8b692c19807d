//! Assembly for processors of Armv6-M (Cortex-M0, M0+): what needs many registers, of which this
//! instruction set lets only eight be used freely. Blocks of four outputs, with the sums in the other
//! registers; the rest is plain Rust in [`integer`](crate::integer), which computes the same.

use core::arch::naked_asm;

use crate::integer::Place;

/// Adds to four sums what leaves the places, at least one, up to the end.
pub(crate) type AddBlock = unsafe extern "C" fn(*const Place, *const Place, *const u8, *mut i32);

/// A kernel: `$row` is the logarithm of a row's bytes, and `$taps` what it does for a place, with
/// weights in r1 and r2 and its rows from r3 on, to sums in r8 to r11.
macro_rules! add_block {
    ($name:ident, $row:literal, [$($taps:expr),*]) => {
        /// # Safety
        /// The places are at least one; their rows and as many as the degree after them are in the
        /// table, which starts at a multiple of four.
        #[unsafe(naked)]
        pub(crate) unsafe extern "C" fn $name(
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
                "ldm r3!, {{r4-r7}}",
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
    cubic_i16,
    "3",
    [
        i16s!("sxth r4, r1"),
        i16s!("asrs r4, r1, #16"),
        i16s!("sxth r4, r2"),
        i16s!("asrs r4, r2, #16")
    ]
);
add_block!(
    linear_i16,
    "3",
    [i16s!("sxth r4, r1"), i16s!("asrs r4, r1, #16")]
);
add_block!(step_i16, "3", [i16s!("sxth r4, r1")]);
add_block!(
    cubic_i8,
    "2",
    [
        i8s!("sxth r4, r1"),
        i8s!("asrs r4, r1, #16"),
        i8s!("sxth r4, r2"),
        i8s!("asrs r4, r2, #16")
    ]
);
add_block!(
    linear_i8,
    "2",
    [i8s!("sxth r4, r1"), i8s!("asrs r4, r1, #16")]
);
add_block!(step_i8, "2", [i8s!("sxth r4, r1")]);

/// The position of an input on a node's grid, without a branch, from products of 32 bits.
///
/// # Safety
/// The shift is less than 32.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn position(node: &[u32; 4], input: i32, shift: u32) -> u32 {
    naked_asm!(
        "push {{r4-r7, lr}}",
        "ldm r0!, {{r4-r7}}", // hi, width, scale, first
        "subs r0, r4, r1",    // hi − x, where it does not overflow
        "eors r1, r4",
        "eors r4, r0",
        "ands r1, r4",
        "asrs r1, r1, #31", // all ones where it does
        "asrs r3, r0, #31",
        "movs r4, #1",
        "lsls r4, r4, #31",
        "eors r3, r4", // what it is then
        "bics r0, r1",
        "ands r3, r1",
        "orrs r0, r3",
        "asrs r3, r0, #31",
        "bics r0, r3",
        "subs r0, r5, r0",
        "asrs r3, r0, #31",
        "bics r0, r3",
        "lsls r0, r2", // d
        "uxth r1, r0", // its halves, r1 and r2
        "lsrs r2, r0, #16",
        "uxth r3, r6", // and those of the scale, r3 and r4
        "lsrs r4, r6, #16",
        "mov r5, r1",
        "muls r5, r3, r5", // low
        "muls r3, r2, r3",
        "muls r1, r4, r1",
        "muls r2, r4, r2", // high
        "lsrs r6, r5, #16",
        "adds r3, r3, r6",
        "uxth r6, r3",
        "adds r1, r1, r6",
        "lsrs r3, r3, #16",
        "adds r2, r2, r3",
        "lsrs r6, r1, #16",
        "adds r2, r2, r6",
        "lsls r1, r1, #16",
        "uxth r5, r5",
        "orrs r1, r5",
        "adds r1, r1, r0", // d more: only the carry counts
        "adcs r2, r7",
        "mov r0, r2",
        "pop {{r4-r7, pc}}",
    )
}
