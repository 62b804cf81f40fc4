//! Blocks of 32 numbers `scale · code + bias`.
//!
//! | type | bytes | number |
//! |---|---|---|
//! | `Q4_0` | f16 d, 16 of codes | `d · (q − 8)` |
//! | `Q4_1` | f16 d, f16 m, 16 of codes | `d · q + m` |
//! | `Q5_0` | f16 d, u32 of fifth bits, 16 of codes | `d · (q − 16)` |
//! | `Q5_1` | f16 d, f16 m, u32 of fifth bits, 16 of codes | `d · q + m` |
//! | `Q8_0` | f16 d, 32 signed codes | `d · q` |
//!
//! A byte of codes holds number j in its low half and number j + 16 in its high half.

use super::half_at;
use crate::io::gguf::TensorType;

/// A block with unsigned codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineBlock {
    /// Codes, in the order of the numbers.
    pub codes: [u8; 32],
    /// Factor of codes.
    pub scale: f32,
    /// Number of code 0.
    pub bias: f32,
    /// Code of 0, if the type has one; `bias` follows from it.
    zero: Option<u8>,
}

impl AffineBlock {
    /// Writes the 32 numbers, rounded as ggml rounds them.
    pub fn read(&self, values: &mut [f32]) {
        for (value, &code) in values.iter_mut().zip(&self.codes) {
            *value = match self.zero {
                Some(zero) => self.scale * (f32::from(code) - f32::from(zero)),
                None => self.scale * f32::from(code) + self.bias,
            };
        }
    }
}

/// Bits per code of the types of this file; `None` for others.
#[must_use]
pub const fn affine_bits(kind: TensorType) -> Option<usize> {
    match kind {
        TensorType::Q4_0 | TensorType::Q4_1 => Some(4),
        TensorType::Q5_0 | TensorType::Q5_1 => Some(5),
        TensorType::Q8_0 => Some(8),
        _ => None,
    }
}

/// Reads a block of one of the types of this file.
#[must_use]
pub fn read_affine(kind: TensorType, block: &[u8]) -> AffineBlock {
    let scale = half_at(block, 0);
    let (zero, bias) = match kind {
        TensorType::Q4_1 | TensorType::Q5_1 => (None, half_at(block, 2)),
        TensorType::Q4_0 => (Some(8), scale * -8.0),
        TensorType::Q5_0 => (Some(16), scale * -16.0),
        _ => (Some(128), scale * -128.0),
    };
    let rest = &block[if zero.is_some() { 2 } else { 4 }..];
    let codes = match affine_bits(kind) {
        Some(4) => halves(rest),
        Some(5) => {
            let fifths = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
            let low = halves(&rest[4..]);
            std::array::from_fn(|i| low[i] | (((fifths >> i) & 1) as u8) << 4)
        }
        // From signed to unsigned codes.
        _ => std::array::from_fn(|i| rest[i] ^ 0x80),
    };
    AffineBlock { codes, scale, bias, zero }
}

/// The low halves of 16 bytes, then the high ones.
pub(super) fn halves(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}
