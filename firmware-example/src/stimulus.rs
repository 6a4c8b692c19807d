//! The inputs that the binary `bench` evaluates a model on, and the sum of what comes out: the same
//! on a device and on the host, so that one number tells whether both computed the same bits.

/// Input vectors of a benchmark, of which the outputs and the median count are.
pub const ROWS: usize = 1000;

/// Those on which calls are tried that are to take the same instructions for every input.
pub const MORE_ROWS: usize = 10_000;

/// Numbers of every magnitude, by xorshift64, and all that is extreme.
pub struct Stimulus(u64);

impl Default for Stimulus {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Stimulus {
    fn next(&mut self) -> i32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as i32
    }

    /// The next row, of integers: every tenth time an end of their range; in half of the
    /// others each may be one.
    pub fn integers<const N: usize>(&mut self, row: usize) -> [i32; N] {
        [(); N].map(|()| {
            let number = self.next();
            match extreme(number, row) {
                0 => i32::MIN,
                1 => i32::MAX,
                _ => number >> (row % 20),
            }
        })
    }

    /// The next row, of floats: every fifth time none that is finite, or the largest; in half of
    /// the others each may be such a number.
    pub fn floats<const N: usize>(&mut self, row: usize) -> [f32; N] {
        [(); N].map(|()| {
            let number = self.next();
            match extreme(number, row) {
                0 => f32::NAN,
                1 => f32::INFINITY,
                2 => f32::NEG_INFINITY,
                3 => f32::MAX,
                _ => (number >> (row % 20)) as f32 / 65_536.0,
            }
        })
    }
}

/// Which extreme stands in a number's place, if any of those counted from 0: one for all of a row,
/// or in half of the other rows each for one number in sixteen.
fn extreme(number: i32, row: usize) -> usize {
    match (row % 20, row / 20 % 2) {
        (whole @ ..4, _) => whole,
        (_, 0) => usize::MAX,
        _ => (number & 15) as usize,
    }
}

/// A sum over 32-bit words that depends on all of them and on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u32);

impl Digest {
    /// Takes another word.
    pub fn add(&mut self, word: u32) {
        // FNV-1a, by words; the rotation brings high bits down.
        self.0 = ((self.0 ^ word).wrapping_mul(0x0100_0193)).rotate_left(13);
    }
}
