//! Whether a matrix has enough zeros.

use mlx_rs::{Array, ArrayElement, Dtype};

use super::pack::{Levels, is_packable, is_zero, row_major, slice};
#[cfg(target_arch = "x86_64")]
use crate::bitmask::expand::has_vbmi2;
use crate::error::MlxResult;
use crate::quantized::PackedWeight;
use crate::runtime::element::Element;
#[cfg(target_arch = "x86_64")]
use crate::runtime::isa::Isa;

/// Rows that are looked at: enough to tell the fraction to a percent, and few enough that loading takes no longer.
const SAMPLE: usize = 64;

/// Fraction of zeros of a floating-point matrix, by its first rows; `None` for what cannot be packed.
///
/// # Errors
/// Errors from MLX.
pub(crate) fn sparsity_of_numbers(weight: &Array) -> MlxResult<Option<f64>> {
    if weight.ndim() != 2 {
        return Ok(None);
    }
    let weight = row_major(weight)?;
    let count = weight.dim(0).min(SAMPLE as i32) as usize * weight.dim(1) as usize;
    let zeros = match weight.dtype() {
        Dtype::Float32 => zeros::<f32>(&slice(&weight)[..count]),
        Dtype::Float16 => zeros::<half::f16>(&slice(&weight)[..count]),
        Dtype::Bfloat16 => zeros::<half::bf16>(&slice(&weight)[..count]),
        _ => return Ok(None),
    };
    Ok(Some(zeros as f64 / count.max(1) as f64))
}

/// Fraction of the codes that are the most frequent one of their group, by the first rows; `None` for what cannot be packed.
///
/// # Errors
/// Errors from MLX.
pub(crate) fn sparsity_of_codes(weight: &PackedWeight) -> MlxResult<Option<f64>> {
    if !is_packable(weight.format) {
        return Ok(None);
    }
    let levels = Levels::of(weight, weight.shape()?.0.min(SAMPLE))?;
    let count = levels.codes.len();
    Ok(Some((count - levels.stored()) as f64 / count.max(1) as f64))
}

fn zeros<T: Element + ArrayElement>(numbers: &[T]) -> usize {
    numbers.iter().filter(|&&x| is_zero(x)).count()
}

/// Half the weights of a row may be a little less than half of those that were looked at.
const HALF: f64 = 0.48;

/// Fraction of zeros from which products of one row with numbers of so many `bits` are faster sparse than dense, as measured
/// on matrices that no cache holds (`benches/sparse.py`); `None` where they never are.
#[cfg(target_arch = "x86_64")]
pub(crate) fn break_even(bits: usize) -> Option<f64> {
    match (has_vbmi2(Isa::current()), bits) {
        // Codes are brought to their places in memory first, which takes as long as reading all of them.
        (true, 16 | 32) => Some(HALF),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn break_even(_bits: usize) -> Option<f64> {
    None
}
