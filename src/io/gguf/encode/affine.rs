//! Weights that are integer codes with a scale and a bias per group already: some types hold the same numbers, in groups
//! of 32, with scales and biases in half precision.

use half::f16;
use rayon::prelude::*;

use super::legacy::{put_q4_1, put_q5_1, put_q8_0};
use crate::io::gguf::TensorType;

/// Columns of a block.
const BLOCK: usize = 32;

/// Groups of a matrix whose weights are `scale·code + bias`.
#[derive(Debug, Clone, Copy)]
pub struct AffineGroups<'a> {
    /// Bits of a code, 2 to 6 or 8.
    pub bits: usize,
    /// Scale of each group, row by row.
    pub scales: &'a [f32],
    /// Bias of each group.
    pub biases: &'a [f32],
    /// Columns that share a scale.
    pub group_size: usize,
    /// Columns of a row.
    pub columns: usize,
}

impl AffineGroups<'_> {
    /// Whether `kind` can hold these weights as they are: codes have no more bits, and half precision expresses every
    /// scale and bias. `Q8_0` has no biases: there they have to be whole numbers of scales.
    #[must_use]
    pub fn fit(&self, kind: TensorType) -> bool {
        let Self { bits, scales, biases, group_size, .. } = *self;
        let mut pairs = scales.iter().zip(biases);
        group_size.is_multiple_of(BLOCK)
            && match kind {
                TensorType::Q4_1 => bits <= 4 && pairs.all(|(&scale, &bias)| is_half(scale) && is_half(bias)),
                TensorType::Q5_1 => bits <= 5 && pairs.all(|(&scale, &bias)| is_half(scale) && is_half(bias)),
                TensorType::Q8_0 => {
                    pairs.all(|(&scale, &bias)| is_half(scale) && zero(scale, bias, bits).is_some())
                }
                _ => false,
            }
    }
}

/// Writes the packed `codes` of `groups`, from the least significant bit of the rows on, as `kind`, which
/// [fits](AffineGroups::fit).
#[must_use]
pub fn encode_affine(kind: TensorType, groups: AffineGroups, codes: &[u32]) -> Vec<u8> {
    let AffineGroups { bits, scales, biases, group_size, columns } = groups;
    let (row_bytes, row_words) = (columns / BLOCK * kind.block_bytes(), columns / BLOCK * bits);
    let mut bytes = vec![0; codes.len() / row_words * row_bytes];
    bytes.par_chunks_exact_mut(row_bytes).zip(codes.par_chunks_exact(row_words)).enumerate().for_each(
        |(row, (out, words))| {
            let blocks = out.chunks_exact_mut(kind.block_bytes()).zip(words.chunks_exact(bits));
            for (block, (out, words)) in blocks.enumerate() {
                let group = row * (columns / group_size) + block * BLOCK / group_size;
                let (scale, bias) = (scales[group], biases[group]);
                let (half, codes) = (f16::from_f32(scale).to_le_bytes(), unpack(words, bits));
                match kind {
                    TensorType::Q8_0 => {
                        let zero = zero(scale, bias, bits).unwrap_or_default();
                        put_q8_0(half, &codes.map(|code| (i16::from(code) - zero) as i8), out);
                    }
                    TensorType::Q5_1 => put_q5_1(half, f16::from_f32(bias).to_le_bytes(), &codes, out),
                    _ => put_q4_1(half, f16::from_f32(bias).to_le_bytes(), &codes, out),
                }
            }
        },
    );
    bytes
}

/// 32 codes of `bits` bits.
pub(super) fn unpack(words: &[u32], bits: usize) -> [u8; BLOCK] {
    std::array::from_fn(|i| {
        let (word, shift) = (i * bits / 32, i * bits % 32);
        let pair = u64::from(words[word]) | words.get(word + 1).map_or(0, |&next| u64::from(next) << 32);
        (pair >> shift) as u8 & (u8::MAX >> (8 - bits))
    })
}

/// Whether `x` is a number in half precision.
fn is_half(x: f32) -> bool {
    f16::from_f32(x).to_f32().to_bits() == x.to_bits()
}

/// The code that stands for 0, if it is a whole number from which all codes are at most 8 bits away.
fn zero(scale: f32, bias: f32, bits: usize) -> Option<i16> {
    let zero = if bias == 0.0 { 0.0 } else { (-bias / scale).round() };
    let most = (1 << bits) as f32 - 1.0;
    let is_exact = (-scale * zero - bias).abs() <= 0.0;
    ((0.0..=128.0).contains(&zero) && most - zero <= 127.0 && is_exact).then_some(zero as i16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups<'a>(bits: usize, scales: &'a [f32], biases: &'a [f32]) -> AffineGroups<'a> {
        AffineGroups { bits, scales, biases, group_size: 32, columns: 32 }
    }

    #[test]
    fn codes_cross_words() {
        for bits in [2, 3, 4, 5, 6, 8] {
            let codes: [u8; 32] = std::array::from_fn(|i| (i * 11) as u8 & (u8::MAX >> (8 - bits)));
            let mut words = vec![0_u32; bits];
            for (i, &code) in codes.iter().enumerate() {
                for bit in 0..bits {
                    let place = i * bits + bit;
                    words[place / 32] |= u32::from(code >> bit & 1) << (place % 32);
                }
            }
            assert_eq!(unpack(&words, bits), codes);
        }
    }

    #[test]
    fn codes_and_halves_are_kept() {
        let four = groups(4, &[0.5], &[-4.0]);
        assert!(four.fit(TensorType::Q4_1) && four.fit(TensorType::Q5_1) && four.fit(TensorType::Q8_0));
        let bytes = encode_affine(TensorType::Q4_1, four, &[0x7654_3210; 4]);
        assert_eq!(bytes[..4], [0x00, 0x38, 0x00, 0xc4]);
        assert_eq!(bytes[4..], std::array::from_fn::<u8, 16, _>(|i| (i % 8 * 0x11) as u8));
        let bytes = encode_affine(TensorType::Q8_0, four, &[0x7654_3210; 4]);
        assert_eq!(bytes[2..10], [-8_i8, -7, -6, -5, -4, -3, -2, -1].map(i8::cast_unsigned));
    }

    #[test]
    fn what_a_type_cannot_hold_does_not_fit() {
        assert!(!groups(4, &[1e-3], &[-4.0]).fit(TensorType::Q4_1), "a scale beyond half precision");
        assert!(!groups(5, &[0.5], &[-4.0]).fit(TensorType::Q4_1));
        assert!(!groups(4, &[0.5], &[-4.25]).fit(TensorType::Q8_0), "zero is no code");
        assert!(groups(8, &[0.5], &[-64.0]).fit(TensorType::Q8_0));
        assert!(!groups(8, &[0.5], &[-63.0]).fit(TensorType::Q8_0), "codes reach 129");
        assert!(!groups(4, &[0.5], &[-4.0]).fit(TensorType::Q4_K));
    }
}
