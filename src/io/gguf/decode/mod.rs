//! Blocks of quantized numbers, as ggml lays them out (`ggml-common.h`).
//!
//! Blocks of 32 with one scale are what MLX has too, so that their codes stay packed; blocks of 256 with scales of
//! scales become numbers.

mod affine;
mod k_quants;
mod mxfp4;

pub use affine::{AffineBlock, affine_bits, read_affine};
pub use mxfp4::{reorder_mxfp4, scale_mxfp4};

use half::{bf16, f16};

use super::TensorType;

/// Writes the numbers of `blocks` to `values`, one of which there is for each number in the blocks.
pub fn read_blocks(kind: TensorType, blocks: &[u8], values: &mut [f32]) {
    let (bytes, size) = (kind.block_bytes(), kind.block_size());
    let blocks = blocks.chunks_exact(bytes).zip(values.chunks_exact_mut(size));
    match kind {
        TensorType::F32 => {
            for (block, value) in blocks {
                value[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            }
        }
        TensorType::F16 => blocks.for_each(|(block, value)| value[0] = half_at(block, 0)),
        TensorType::BF16 => {
            blocks.for_each(|(block, value)| value[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32());
        }
        TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q8_0 => {
            for (block, values) in blocks {
                read_affine(kind, block).read(values);
            }
        }
        TensorType::MXFP4 => blocks.for_each(|(block, values)| mxfp4::read(block, values)),
        TensorType::Q2_K => blocks.for_each(|(block, values)| k_quants::read_q2(block, values)),
        TensorType::Q3_K => blocks.for_each(|(block, values)| k_quants::read_q3(block, values)),
        TensorType::Q4_K => blocks.for_each(|(block, values)| k_quants::read_q4(block, values)),
        TensorType::Q5_K => blocks.for_each(|(block, values)| k_quants::read_q5(block, values)),
        TensorType::Q6_K => blocks.for_each(|(block, values)| k_quants::read_q6(block, values)),
    }
}

/// The number of 16 bits at byte `at` of `block`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
