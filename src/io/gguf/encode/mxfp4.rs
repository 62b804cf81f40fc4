//! Weights in MLX's `mxfp4`: `MXFP4` holds the same codes and scales, in another order.

use rayon::prelude::*;

use super::affine::unpack;
use super::packing::put_nibbles;
use crate::io::gguf::TensorType;

/// Bits of a code.
const BITS: usize = 4;

/// Writes rows of packed `codes`, whose groups of 32 have the exponents `scales`.
#[must_use]
pub fn encode_mxfp4(codes: &[u32], scales: &[u8]) -> Vec<u8> {
    let block_bytes = TensorType::MXFP4.block_bytes();
    let mut bytes = vec![0; scales.len() * block_bytes];
    let groups = codes.par_chunks_exact(BITS).zip(scales);
    bytes.par_chunks_exact_mut(block_bytes).zip(groups).for_each(|(out, (words, scale))| {
        out[0] = *scale;
        put_nibbles(&unpack(words, BITS), &mut out[1..]);
    });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::gguf::decode::{reorder_mxfp4, scale_mxfp4};

    #[test]
    fn what_is_written_is_read_back() {
        let codes: Vec<u32> = (0..8_u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let bytes = encode_mxfp4(&codes, &[3, 200]);
        for (group, block) in bytes.chunks_exact(17).enumerate() {
            assert_eq!(reorder_mxfp4(block), codes[4 * group..4 * group + 4]);
            assert_eq!(scale_mxfp4(block), [3, 200][group]);
        }
    }
}
