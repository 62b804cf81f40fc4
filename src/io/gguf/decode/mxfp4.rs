//! `MXFP4`: blocks of 32 numbers in E2M1 with a power of two as scale ([OCP Microscaling
//! Formats](https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf)).
//!
//! Byte 0 is the exponent of the scale, 16 bytes of codes follow, as those of `Q4_0`. The codes and scales are those of
//! MLX, in another order.

use super::affine::halves;

/// Twice the number of each code.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Writes the numbers of `block`.
pub(super) fn read(block: &[u8], values: &mut [f32]) {
    let half = half_scale(block[0]);
    for (value, code) in values.iter_mut().zip(halves(&block[1..])) {
        *value = half * f32::from(DOUBLED[usize::from(code)]);
    }
}

/// Half of `2^(exponent − 127)`.
fn half_scale(exponent: u8) -> f32 {
    match exponent {
        0 | 1 => f32::from_bits(0x0020_0000 << exponent),
        _ => f32::from_bits(u32::from(exponent - 1) << 23),
    }
}

/// The scale of `block`, as MLX stores it.
#[must_use]
pub const fn scale_mxfp4(block: &[u8]) -> u8 {
    block[0]
}

/// The codes of `block`, packed in the order of their numbers.
#[must_use]
pub fn reorder_mxfp4(block: &[u8]) -> [u32; 4] {
    let codes = halves(&block[1..]);
    let word = |i: usize| (0..8).map(|j| u32::from(codes[8 * i + j]) << (4 * j)).sum();
    std::array::from_fn(word)
}
