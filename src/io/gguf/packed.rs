//! Types that MLX has too.

use super::TensorType;
use super::decode::affine_bits;
use crate::kernels::quantized::Format;

/// The format in which a matrix of this type stays packed; `None` for types that become numbers.
#[must_use]
pub fn packed_format(kind: TensorType) -> Option<Format> {
    match kind {
        TensorType::MXFP4 => Some(Format::MXFP4),
        _ => Format::affine(affine_bits(kind)?, 32).ok(),
    }
}
