//! What both binaries share on the device: memory regions, the instruction counter, the report
//! and the ways out of QEMU.

use core::{
    hint::black_box,
    panic::PanicInfo,
    slice,
    sync::atomic::{AtomicBool, Ordering, compiler_fence},
};
use cortex_m::{
    Peripherals,
    peripheral::{SYST, syst::SystClkSource},
};
use cortex_m_rt::{ExceptionFrame, exception};
use defmt_semihosting as _;
use firmware_example::{CAPACITY, vectors::Vectors};
use semihosting::process;

/// Bytes of stack painted before the first evaluation, and so the most that can be measured.
const PAINTED_BYTES: usize = 64 * 1024;

/// What painted stack holds.
const PAINT: u32 = 0xA5A5_5A5A;

unsafe extern "C" {
    static __vectors_start: u8;
    static __vectors_end: u8;
}

/// The test inputs in the region VECTORS.
pub fn vectors() -> Vectors<'static> {
    // SAFETY: the linker script links nothing into the memory between the two symbols.
    let region = unsafe { region(&raw const __vectors_start, &raw const __vectors_end) };
    match Vectors::parse(region) {
        Some(vectors) => vectors,
        None => {
            defmt::error!("no test vectors in the region VECTORS");
            process::exit(1)
        }
    }
}

/// The bytes from `start` up to `end`.
///
/// # Safety
/// They must be memory that holds nothing of this program: no variable, no stack.
pub unsafe fn region(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: as promised by the caller.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// The instruction counter: SysTick, which counts instructions in QEMU under `-icount shift=7`.
///
/// An instruction then takes 128 ns of the machine's time, which is 3.2 ticks of its 25 MHz clock:
/// the difference of two readings is less than a tick, so less than a third of an instruction,
/// away from 3.2 times a whole number, and rounding finds that number. 24 bits hold 5.2 million.
pub struct Counter {
    systick: SYST,
    /// What an empty region counts.
    overhead: u32,
}

impl Counter {
    /// Starts SysTick and proves on a loop of known length that it counts instructions.
    pub fn start() -> Self {
        let Some(peripherals) = Peripherals::take() else {
            defmt::error!("the counter is started twice");
            process::exit(1)
        };
        let mut systick = peripherals.SYST;
        systick.set_clock_source(SystClkSource::Core);
        systick.set_reload(0x00FF_FFFF);
        systick.enable_counter();
        let mut counter = Self {
            systick,
            overhead: 0,
        };
        counter.overhead = counter.instructions(|| ());
        let short = counter.instructions(|| spin(10));
        let long = counter.instructions(|| spin(1010));
        if long.wrapping_sub(short) != 2000 {
            defmt::error!("SysTick does not count instructions: QEMU needs -icount shift=7");
            process::exit(1)
        }
        counter
    }

    /// Executed instructions of `work`, exactly.
    pub fn instructions(&mut self, work: impl FnOnce()) -> u32 {
        self.systick.clear_current();
        // A cleared counter reads 0 until its next tick reloads it.
        while SYST::get_current() == 0 {}
        let start = SYST::get_current();
        compiler_fence(Ordering::SeqCst);
        work();
        compiler_fence(Ordering::SeqCst);
        let end = SYST::get_current();
        if self.systick.has_wrapped() {
            defmt::error!("more than 5.2 million instructions: SysTick cannot count them");
            process::exit(1)
        }
        ((start - end) * 5 + 8) / 16 - self.overhead
    }
}

/// Executes two instructions `turns` times, and a few around them.
#[inline(never)]
fn spin(turns: u32) {
    // SAFETY: a loop that touches one register and the flags.
    unsafe {
        core::arch::asm!(
            "2: subs {0}, {0}, #1",
            "bne 2b",
            inout(reg) turns => _,
            options(nomem, nostack)
        );
    }
}

/// Evaluates every test vector and reports its outputs, as bit patterns, and its instructions.
///
/// The shapes must be within [`CAPACITY`].
pub fn evaluate(
    vectors: Vectors,
    outputs: usize,
    counter: &mut Counter,
    model: impl Fn(&[f32], &mut [f32]),
) -> ! {
    let mut input = [0.0; CAPACITY.inputs];
    let mut output = [0.0; CAPACITY.outputs];
    let input = &mut input[..vectors.inputs()];
    let output = &mut output[..outputs];
    defmt::info!(
        "stack bytes={=u32}",
        stack_bytes(&mut || model(black_box(input), black_box(output)))
    );

    let mut rows = 0;
    for row in vectors.rows() {
        for (slot, value) in input.iter_mut().zip(row) {
            *slot = value;
        }
        let instructions = counter.instructions(|| model(black_box(input), black_box(output)));
        let mut bits = [0; CAPACITY.outputs];
        for (bits, value) in bits.iter_mut().zip(&*output) {
            *bits = value.to_bits();
        }
        defmt::info!(
            "row {=u32} instructions={=u32} outputs={=[?]:08x}",
            rows,
            instructions,
            bits[..outputs]
        );
        rows += 1;
    }
    defmt::info!("end rows={=u32}", rows);
    process::exit(0)
}

/// The most stack that `work` uses, in bytes: paint what lies below, work, look what is left.
#[inline(never)]
fn stack_bytes(work: &mut dyn FnMut()) -> u32 {
    let top = cortex_m::register::msp::read() as usize;
    let bottom = top - PAINTED_BYTES;
    for address in (bottom..top).step_by(4) {
        // SAFETY: stack below the stack pointer is in nobody's use, and no interrupt is enabled
        // that could use it meanwhile.
        unsafe { (address as *mut u32).write_volatile(PAINT) };
    }
    black_box(work)();
    let used = (bottom..top).step_by(4).find(|&address| {
        // SAFETY: as above; the memory is initialised.
        unsafe { (address as *const u32).read_volatile() != PAINT }
    });
    used.map_or(0, |address| (top - address) as u32)
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    leave(|| match info.location() {
        Some(at) => defmt::error!("panic at {=str}:{=u32}", at.file(), at.line()),
        None => defmt::error!("panic"),
    })
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    leave(|| defmt::error!("hard fault at {=u32:#010x}", frame.pc()))
}

/// Ends QEMU with a failure, after `last_words` if they are the first: speaking may fail too.
fn leave(last_words: impl FnOnce()) -> ! {
    static SPOKEN: AtomicBool = AtomicBool::new(false);
    if !SPOKEN.load(Ordering::Relaxed) {
        SPOKEN.store(true, Ordering::Relaxed);
        last_words();
    }
    process::exit(1)
}
