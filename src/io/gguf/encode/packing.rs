//! Codes as the blocks of GGUF hold them.

use half::f16;

/// Bytes of `x` in half precision.
pub(super) fn half(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

/// `x` as half precision stores it.
pub(super) fn rounded(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// Four bits of each code: those of the first half in the low nibbles, those of the second half in the high ones.
pub(super) fn put_nibbles(codes: &[u8], out: &mut [u8]) {
    let (low, high) = codes.split_at(codes.len() / 2);
    for ((byte, low), high) in out.iter_mut().zip(low).zip(high) {
        *byte = (low & 15) | (high << 4);
    }
}

/// The fifth bit of each of 32 codes.
pub(super) fn fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let bits = codes.iter().enumerate().fold(0_u32, |bits, (i, code)| bits | (u32::from(code >> 4 & 1) << i));
    bits.to_le_bytes()
}

/// Scales and minima of 6 bits of eight groups, in 12 bytes.
pub(super) fn put_six_bits(scales: [u8; 8], mins: [u8; 8], out: &mut [u8]) {
    for j in 0..4 {
        out[j] = scales[j] | (scales[j + 4] >> 4 << 6);
        out[j + 4] = mins[j] | (mins[j + 4] >> 4 << 6);
        out[j + 8] = (scales[j + 4] & 15) | (mins[j + 4] << 4);
    }
}
