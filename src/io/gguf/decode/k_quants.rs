//! Blocks of 256 numbers in parts of 16 or 32, whose scales are codes with a scale of their own.
//!
//! | type | bytes | number |
//! |---|---|---|
//! | `Q2_K` | 16 of scales and minima, 64 of codes, f16 d, f16 dmin | `d · s · q − dmin · m`, parts of 16 |
//! | `Q3_K` | 32 of third bits, 64 of codes, 12 of scales, f16 d | `d · (s − 32) · (q − 4)`, parts of 16 |
//! | `Q4_K` | f16 d, f16 dmin, 12 of scales and minima, 128 of codes | `d · s · q − dmin · m`, parts of 32 |
//! | `Q5_K` | as `Q4_K`, with 32 of fifth bits before the codes | `d · s · q − dmin · m`, parts of 32 |
//! | `Q6_K` | 128 of low bits, 64 of high bits, 16 of signed scales, f16 d | `d · s · (q − 32)`, parts of 16 |
//!
//! Products are rounded in the order in which ggml computes them.

use super::half_at;

/// Reads a block of `Q2_K`.
pub(super) fn read_q2(block: &[u8], values: &mut [f32]) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (part, values) in values.chunks_exact_mut(16).enumerate() {
        let scale = block[part];
        let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        for (i, value) in values.iter_mut().enumerate() {
            *value = dl * f32::from(two_bits(&block[16..80], 16 * part + i)) - ml;
        }
    }
}

/// Reads a block of `Q3_K`.
pub(super) fn read_q3(block: &[u8], values: &mut [f32]) {
    let (thirds, codes, scales, d) = (&block[..32], &block[32..96], &block[96..108], half_at(block, 108));
    for (part, values) in values.chunks_exact_mut(16).enumerate() {
        let low = scales[part % 8] >> (4 * (part / 8)) & 15;
        let high = scales[8 + part % 4] >> (2 * (part / 4)) & 3;
        let dl = d * (f32::from(low | high << 4) - 32.0);
        for (i, value) in values.iter_mut().enumerate() {
            let at = 16 * part + i;
            // A third bit of 0 takes four away.
            let third = thirds[at % 32] >> (at / 32) & 1;
            *value = dl * (f32::from(two_bits(codes, at)) - f32::from(4 * (1 - third)));
        }
    }
}

/// Reads a block of `Q4_K`.
pub(super) fn read_q4(block: &[u8], values: &mut [f32]) {
    let codes = &block[16..144];
    read_with_minima(block, values, |at| nibble(codes, at));
}

/// Reads a block of `Q5_K`.
pub(super) fn read_q5(block: &[u8], values: &mut [f32]) {
    let (fifths, codes) = (&block[16..48], &block[48..176]);
    read_with_minima(block, values, |at| nibble(codes, at) | (fifths[at % 32] >> (at / 32) & 1) << 4);
}

/// Reads a block of `Q6_K`.
pub(super) fn read_q6(block: &[u8], values: &mut [f32]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half_at(block, 208));
    for (part, values) in values.chunks_exact_mut(16).enumerate() {
        let dl = d * f32::from(scales[part].cast_signed());
        for (i, value) in values.iter_mut().enumerate() {
            let at = 16 * part + i;
            // In each half of 128, 64 bytes hold 64 numbers in their low and 64 in their high halves.
            let (half, inside) = (at / 128, at % 128);
            let nibble = low[64 * half + inside % 64] >> (4 * (inside / 64)) & 15;
            let code = nibble | two_bits(high, at) << 4;
            *value = dl * (f32::from(code) - 32.0);
        }
    }
}

/// Reads parts of 32 with a scale and a minimum each, whose 6 bits lie in 12 bytes.
fn read_with_minima(block: &[u8], values: &mut [f32], code: impl Fn(usize) -> u8) {
    let (d, dmin, packed) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    for (part, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = if part < 4 {
            (packed[part] & 63, packed[part + 4] & 63)
        } else {
            let rest = packed[part + 4];
            (rest & 15 | packed[part - 4] >> 6 << 4, rest >> 4 | packed[part] >> 6 << 4)
        };
        let (dl, ml) = (d * f32::from(scale), dmin * f32::from(minimum));
        for (i, value) in values.iter_mut().enumerate() {
            *value = dl * f32::from(code(32 * part + i)) - ml;
        }
    }
}

/// Code number `at` of four bits: 32 bytes hold 32 numbers in their low and 32 in their high halves.
fn nibble(codes: &[u8], at: usize) -> u8 {
    codes[at / 64 * 32 + at % 32] >> (4 * (at / 32 % 2)) & 15
}

/// Code number `at` of two bits: 32 bytes hold four times 32 numbers.
fn two_bits(codes: &[u8], at: usize) -> u8 {
    codes[at / 128 * 32 + at % 32] >> (2 * (at / 32 % 4)) & 3
}
