//! The inputs that the binary `bench` evaluates a model on, and the sum of what comes out: the same on a
//! device and on the host, so that one number tells whether both computed the same bits.

/// Input vectors of a benchmark.
pub const ROWS: usize = 1000;

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

    /// The next row, of integers: every tenth time an end of their range.
    pub fn integers<const N: usize>(&mut self, row: usize) -> [i32; N] {
        [(); N].map(|()| match (self.next(), row % 20) {
            (_, 0) => i32::MIN,
            (_, 1) => i32::MAX,
            (number, shift) => number >> shift,
        })
    }

    /// The next row, of floats: every fifth time none that is finite, or the largest.
    pub fn floats<const N: usize>(&mut self, row: usize) -> [f32; N] {
        [(); N].map(|()| match (self.next(), row % 20) {
            (_, 0) => f32::NAN,
            (_, 1) => f32::INFINITY,
            (_, 2) => f32::NEG_INFINITY,
            (_, 3) => f32::MAX,
            (number, shift) => (number >> shift) as f32 / 65_536.0,
        })
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
