//! Measures the model in the region MODEL of a board: the counter's ticks for each of the rows of
//! [`firmware_example::stimulus`], least, median and most; the stack; and a digest of all outputs.
//! A call that is to take the same for every input is tried on more rows, of which only the least
//! and most ticks are kept. It tells them on the serial line, one call a line, and ends with the
//! line `end`.
//!
//! ```text
//! counter board=mps2 ticks_of_nothing=10 ticks_per_second=25000000
//! eval_q least=2304 median=2304 most=2304 stack=312 digest=89abcdef
//! ```
//!
//! With the feature `peer` the region has rows of a data set and KANs that learnt it: the number of
//! rows and their inputs, 32 bits each, then the blobs. Each KAN and then the perceptron evaluates
//! all rows, and their outputs are told, as the bits of floats:
//!
//! ```text
//! model stack=312 struct=140
//! row ticks=2304 outputs=3f800000,40000000
//! ```

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod board;
#[cfg(all(target_os = "none", feature = "peer"))]
mod peer;
#[cfg(target_os = "none")]
mod region;

#[cfg(target_os = "none")]
mod device {
    use core::hint::black_box;
    use core::panic::PanicInfo;
    use core::sync::atomic::{Ordering, compiler_fence};

    use cortex_m_rt::{ExceptionFrame, entry, exception};
    use embedded_io::Write;

    use crate::board::{Board, Counter, NAME};
    #[cfg(feature = "peer")]
    use crate::contest::measure;
    use crate::region;
    #[cfg(not(feature = "peer"))]
    use crate::stimulated::measure;

    /// Bytes of stack painted before a call, and so the most that can be measured.
    const PAINTED: usize = 4096;

    /// What painted stack holds.
    const PAINT: u32 = 0xA5A5_5A5A;

    #[entry]
    fn main() -> ! {
        if let Some(mut board) = Board::take() {
            let nothing = ticks(&mut board.counter, || ());
            let second = Counter::TICKS_PER_SECOND;
            say(
                &mut board,
                format_args!(
                    "counter board={NAME} ticks_of_nothing={nothing} ticks_per_second={second}"
                ),
            );
            measure(&mut board, region::model());
            say(&mut board, format_args!("end"));
        }
        loop {
            cortex_m::asm::wfi();
        }
    }

    pub fn say(board: &mut Board, line: core::fmt::Arguments) {
        let _ = writeln!(board.serial, "{line}");
    }

    /// Ticks that `work` takes, and those of nothing; the largest number if the counter cannot
    /// tell.
    #[inline(always)]
    pub fn ticks(counter: &mut Counter, work: impl FnOnce()) -> u32 {
        counter.start();
        compiler_fence(Ordering::SeqCst);
        work();
        compiler_fence(Ordering::SeqCst);
        counter.ticks().unwrap_or(u32::MAX)
    }

    /// The most stack that `work` uses, in bytes: paint what lies below, work, look what is left.
    /// The largest number if nothing is.
    #[inline(never)]
    pub fn stack_of(work: &mut dyn FnMut()) -> usize {
        let top = cortex_m::register::msp::read() as usize;
        let bottom = top - PAINTED;
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
        match used {
            None => 0,
            Some(address) if address == bottom => usize::MAX,
            Some(address) => top - address,
        }
    }

    #[exception]
    unsafe fn HardFault(_: &ExceptionFrame) -> ! {
        // The host hears of it by the silence.
        loop {
            cortex_m::asm::nop();
        }
    }

    #[panic_handler]
    fn panic(_: &PanicInfo) -> ! {
        cortex_m::asm::udf()
    }
}

/// KANs on the rows of the stimulus.
#[cfg(all(target_os = "none", not(feature = "peer")))]
mod stimulated {
    use core::hint::black_box;

    use firmware_example::stimulus::{Digest, MORE_ROWS, ROWS, Stimulus};
    use kan_core::{LayerTables, LoadError, Model, Scalar, blob_len, kinds};

    use crate::board::Board;
    use crate::device::{say, stack_of, ticks};

    pub fn measure(board: &mut Board, region: &'static [u8]) {
        let blob = blob_len(region).map_or(region, |len| region.get(..len).unwrap_or(region));
        measure_any(board, blob);
    }

    /// A model of one kind of tables within the larger of two capacities.
    type Large<const KINDS: u16> = Model<'static, 64, 10, 16, 4, KINDS>;

    /// Measures the model as the type with the one kind of tables that it has, with the smaller
    /// capacity if that is enough: a firmware would be made for it. (Integers as floats have the
    /// larger one.)
    fn measure_any(board: &mut Board, blob: &'static [u8]) {
        macro_rules! measure_as {
            ($($kinds:expr),*) => {
                $(
                    match Large::<{ $kinds }>::load(blob) {
                        Ok(model) => {
                            match Model::<8, 8, 8, 2, { $kinds }>::load(blob) {
                                Ok(model) => measure_integers(board, |x| model.eval_q(x)),
                                Err(_) => measure_integers(board, |x| model.eval_q(x)),
                            }
                            return measure_floats(board, &model);
                        }
                        Err(LoadError::Unsupported) => {}
                        Err(error) => return say(board, format_args!("refused: {error}")),
                    }
                )*
            };
        }
        measure_as!(
            kinds::CUBIC_I16,
            kinds::LINEAR_I16,
            kinds::STEP_I16,
            kinds::CUBIC_I8,
            kinds::LINEAR_I8,
            kinds::STEP_I8
        );
        match Large::<{ kinds::F32 }>::load(blob) {
            Ok(model) => match Model::<8, 8, 8, 2, { kinds::F32 }>::load(blob) {
                Ok(model) => {
                    let (row, rows) = (Stimulus::floats::<8>, rows_of(&model));
                    measure_call(board, "eval", rows, row, |x| model.eval(x), f32::to_bits);
                }
                Err(_) => measure_floats(board, &model),
            },
            Err(error) => say(board, format_args!("refused: {error}")),
        }
    }

    /// Rows on which `eval` is tried: more where it is to take the same for every input, tables of
    /// `f32` without an exponential on an FPU.
    fn rows_of<
        const IN: usize,
        const OUT: usize,
        const WIDTH: usize,
        const LAYERS: usize,
        const KINDS: u16,
    >(
        model: &Model<IN, OUT, WIDTH, LAYERS, KINDS>,
    ) -> usize {
        let of_fpu = |tables: LayerTables| tables.scalar == Scalar::F32 && !tables.residual;
        match cfg!(target_abi = "eabihf") && model.tables().all(of_fpu) {
            true => MORE_ROWS,
            false => ROWS,
        }
    }

    fn measure_integers<const I: usize, const O: usize>(
        board: &mut Board,
        call: impl Fn(&[i32; I]) -> [i32; O],
    ) {
        let row = Stimulus::integers::<I>;
        measure_call(board, "eval_q", MORE_ROWS, row, call, |y| y as u32);
    }

    fn measure_floats<const KINDS: u16>(board: &mut Board, model: &Large<KINDS>) {
        let (row, rows) = (Stimulus::floats::<64>, rows_of(model));
        measure_call(board, "eval", rows, row, |x| model.eval(x), f32::to_bits);
    }

    #[inline(never)]
    fn measure_call<X: Copy, const I: usize, Y: Copy, const O: usize>(
        board: &mut Board,
        name: &str,
        rows: usize,
        row: impl Fn(&mut Stimulus, usize) -> [X; I],
        call: impl Fn(&[X; I]) -> [Y; O],
        bits: impl Fn(Y) -> u32,
    ) {
        let mut counts = [0; ROWS];
        let mut stimulus = Stimulus::default();
        let mut digest = Digest::default();
        let (mut least, mut most) = (u32::MAX, 0);
        for k in 0..rows {
            let input = black_box(row(&mut stimulus, k));
            let mut output = None;
            let count = ticks(&mut board.counter, || {
                output = Some(call(&input));
                black_box(&output);
            });
            (least, most) = (least.min(count), most.max(count));
            if let Some(place) = counts.get_mut(k) {
                *place = count;
                for y in output.iter().flatten() {
                    digest.add(bits(*y));
                }
            }
        }
        let input = black_box(row(&mut stimulus, rows));
        let stack = stack_of(&mut || {
            black_box(call(black_box(&input)));
        });
        counts.sort_unstable();
        let median = counts[ROWS / 2];
        say(
            board,
            format_args!(
                "{name} least={least} median={median} most={most} stack={stack} digest={:08x}",
                digest.0
            ),
        );
    }
}

/// KANs and a perceptron on the rows of a data set.
#[cfg(all(target_os = "none", feature = "peer"))]
mod contest {
    use core::hint::black_box;

    use embedded_io::Write;
    use kan_core::{Model, blob_len, kinds};

    use crate::board::Board;
    use crate::device::{say, stack_of, ticks};
    use crate::peer::{self, CAPACITY};

    /// A KAN's own type.
    type Exact<const KINDS: u16> =
        Model<'static, { CAPACITY[0] }, { CAPACITY[1] }, { CAPACITY[2] }, { CAPACITY[3] }, KINDS>;

    pub fn measure(board: &mut Board, region: &'static [u8]) {
        let rows = words(region).next().unwrap_or(0) as usize;
        let Some((inputs, mut blobs)) = region[4..].split_at_checked(4 * CAPACITY[0] * rows) else {
            return say(board, format_args!("refused: {rows} rows"));
        };
        while let Some((blob, rest)) = blob_len(blobs)
            .ok()
            .and_then(|len| blobs.split_at_checked(len))
        {
            macro_rules! measure_as {
                ($($kinds:expr),*) => {
                    $(
                        if let Ok(model) = Exact::<{ $kinds }>::load(blob) {
                            measure_model(board, size_of_val(&model), inputs, |x| model.eval(x));
                        }
                    )*
                };
            }
            measure_as!(kinds::CUBIC_I16, kinds::CUBIC_I8);
            blobs = rest;
        }
        measure_model(board, 0, inputs, peer::predict);
    }

    fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
        let words = bytes.as_chunks::<4>().0.iter();
        words.map(|&word| u32::from_le_bytes(word))
    }

    /// Tells what a model makes of rows, and what each takes.
    fn measure_model<const I: usize, const O: usize>(
        board: &mut Board,
        bytes: usize,
        inputs: &[u8],
        call: impl Fn(&[f32; I]) -> [f32; O],
    ) {
        let input = black_box([0.0; I]);
        let stack = stack_of(&mut || {
            black_box(call(black_box(&input)));
        });
        say(board, format_args!("model stack={stack} struct={bytes}"));
        let mut inputs = words(inputs).map(f32::from_bits).peekable();
        while inputs.peek().is_some() {
            let input = black_box([(); I].map(|()| inputs.next().unwrap_or(f32::NAN)));
            let mut output = None;
            let ticks = ticks(&mut board.counter, || {
                output = Some(call(&input));
                black_box(&output);
            });
            let _ = write!(board.serial, "row ticks={ticks} outputs=");
            for (k, y) in output.iter().flatten().enumerate() {
                let comma = if k > 0 { "," } else { "" };
                let _ = write!(board.serial, "{comma}{:08x}", y.to_bits());
            }
            say(board, format_args!(""));
        }
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is firmware; it is built and run by `kan bench device` and by `cargo budgets`");
}
