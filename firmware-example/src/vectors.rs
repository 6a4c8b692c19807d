//! The memory region VECTORS: test inputs, written beside the firmware and read by `evaluate`.
//!
//! All little endian, from the start of the region; what follows the last row is ignored.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 4 | [`MAGIC`] |
//! | 4 | 4 | `u32` number of rows |
//! | 8 | 4 | `u32` inputs in a row, at least 1 |
//! | 12 | 4 · rows · inputs | `f32` bit patterns, row by row |

/// The first bytes of the region; memory that nobody wrote does not begin with them.
pub const MAGIC: [u8; 4] = *b"VEC\x01";

/// Bytes before the first row.
pub const HEADER_BYTES: usize = 12;

/// The header of a region of `rows` rows of `inputs` values.
pub fn header(rows: u32, inputs: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let words = [MAGIC, rows.to_le_bytes(), inputs.to_le_bytes()];
    header.copy_from_slice(words.as_flattened());
    header
}

/// Test inputs borrowed from a region.
#[derive(Copy, Clone, Debug)]
pub struct Vectors<'a> {
    inputs: usize,
    /// Whole rows, `4 * inputs` bytes each.
    rows: &'a [u8],
}

impl<'a> Vectors<'a> {
    /// Reads the header of `region`; `None` if it is not one or announces more than there is.
    pub fn parse(region: &'a [u8]) -> Option<Self> {
        let (header, body) = region.split_at_checked(HEADER_BYTES)?;
        let word = |at: usize| -> Option<[u8; 4]> { header.get(at..at + 4)?.try_into().ok() };
        if word(0)? != MAGIC {
            return None;
        }
        let rows = usize::try_from(u32::from_le_bytes(word(4)?)).ok()?;
        let inputs = usize::try_from(u32::from_le_bytes(word(8)?)).ok()?;
        let bytes = rows.checked_mul(inputs)?.checked_mul(size_of::<f32>())?;
        let rows = body.get(..bytes)?;
        (inputs > 0).then_some(Self { inputs, rows })
    }

    /// Inputs in a row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The rows in order, each the bit-exact values of its inputs.
    pub fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = f32> + 'a> + 'a {
        self.rows
            .chunks_exact(size_of::<f32>() * self.inputs)
            .map(|row| {
                row.as_chunks()
                    .0
                    .iter()
                    .map(|&value| f32::from_le_bytes(value))
            })
    }
}
