//! The model server on a board: [`firmware_example::server`] on its serial line.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod board;
#[cfg(target_os = "none")]
mod region;

#[cfg(target_os = "none")]
mod device {
    use core::hint::black_box;
    use core::ptr;
    use core::sync::atomic::{Ordering, compiler_fence};

    use cortex_m::peripheral::SCB;
    use cortex_m_rt::{ExceptionFrame, entry, exception};
    use embedded_io::{Read, Write};
    use firmware_example::protocol::{Identity, UNCOUNTED, VERSION};
    use firmware_example::server::{self, Device};
    use kan_core::ModelBytes;

    use crate::board::{Board, Counter, NAME};
    use crate::region;

    /// Bytes of RAM for models that the host sends.
    const RAM_MODEL: usize = if cfg!(feature = "microbit") { 4 } else { 64 } * 1024;

    #[entry]
    fn main() -> ! {
        let fault = Fault::take();
        if let Some(board) = Board::take() {
            let mut device = Instrumented(board);
            let identity = Identity {
                protocol: VERSION,
                board: NAME,
                fault,
                ticks_per_second: Counter::TICKS_PER_SECOND,
                ticks_of_nothing: device.ticks_of(|| ()),
                ticks_of_thousand_turns: [
                    device.ticks_of(|| spin(10)),
                    device.ticks_of(|| spin(1010)),
                ],
            };
            let mut ram = ModelBytes([0; RAM_MODEL]);
            server::serve(&mut device, identity, region::model(), &mut ram);
        }
        // Not reached: a board's line is never closed.
        SCB::sys_reset()
    }

    /// The board as the server uses it.
    struct Instrumented(Board);

    impl Instrumented {
        fn ticks_of(&mut self, work: impl FnOnce()) -> u32 {
            self.start_counter();
            work();
            self.ticks()
        }
    }

    impl Device for Instrumented {
        fn receive(&mut self) -> Option<u8> {
            let mut byte = [0];
            // One that arrived damaged is an error, and skipped.
            while !matches!(self.0.serial.read(&mut byte), Ok(1)) {}
            let [byte] = byte;
            Some(byte)
        }

        fn send(&mut self, mut bytes: &[u8]) {
            // `write_all` would panic where nothing is written.
            while !bytes.is_empty() {
                let sent = self.0.serial.write(bytes).unwrap_or(0);
                bytes = bytes.get(sent..).unwrap_or_default();
            }
        }

        #[inline(always)]
        fn start_counter(&mut self) {
            self.0.counter.start();
            compiler_fence(Ordering::SeqCst);
        }

        #[inline(always)]
        fn ticks(&mut self) -> u32 {
            compiler_fence(Ordering::SeqCst);
            self.0.counter.ticks().unwrap_or(UNCOUNTED)
        }

        fn stack_bytes(&mut self, work: &mut dyn FnMut()) -> u32 {
            stack_bytes(work)
        }
    }

    /// Most bytes of stack that are painted to see how many are used.
    const PAINTED_BYTES: usize = 64 * 1024;

    /// What painted stack holds.
    const PAINT: u32 = 0xA5A5_5A5A;

    unsafe extern "C" {
        /// Where the program's variables end, by cortex-m-rt.
        static __sheap: u8;
    }

    /// The most stack that `work` uses, in bytes: paint what lies below, work, look what is left.
    #[inline(never)]
    fn stack_bytes(work: &mut dyn FnMut()) -> u32 {
        let top = cortex_m::register::msp::read() as usize;
        let bottom = (&raw const __sheap)
            .addr()
            .max(top - PAINTED_BYTES)
            .next_multiple_of(4);
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

    /// What a fault leaves behind for the run after it: where the program was.
    struct Fault;

    unsafe extern "C" {
        /// RAM of which nothing else knows, by `memory.x`.
        static mut __fault: [u32; 2];
    }

    impl Fault {
        /// What no memory holds that was just switched on.
        const MARK: u32 = 0x4B41_4EFA;

        fn take() -> Option<u32> {
            // SAFETY: the memory is only accessed here and in `leave`, which does not return.
            let [mark, pc] = unsafe { ptr::read_volatile(&raw const __fault) };
            Self::write([0; 2]);
            (mark == Self::MARK).then_some(pc)
        }

        /// Resets the processor: the model is served again, and the host can ask what happened.
        fn leave(pc: u32) -> ! {
            Self::write([Self::MARK, pc]);
            SCB::sys_reset()
        }

        fn write(words: [u32; 2]) {
            // SAFETY: as above.
            unsafe { ptr::write_volatile(&raw mut __fault, words) }
        }
    }

    #[exception]
    unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
        Fault::leave(frame.pc())
    }

    // A panic handler without code: the server links only because the compiler finds every panic
    // unreachable, those of the board's HAL too. In the HALs of the two Picos some are left.
    #[cfg(not(any(debug_assertions, feature = "pico", feature = "pico2")))]
    use panic_never as _;

    #[cfg(any(debug_assertions, feature = "pico", feature = "pico2"))]
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo) -> ! {
        // A fault here: its address tells that it was a panic.
        cortex_m::asm::udf()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!(
        "This is firmware; run it by: cargo kan eval FILE.kan --data FILE.csv --target COL --on qemu"
    );
}
