//! Whether a matrix has enough zeros.

use mlx_rs::{ArrayElement, Dtype};

use super::pack::{Levels, is_packable, is_zero, row_major, slice};
use crate::error::MlxResult;
use crate::linear::Weight;
use crate::runtime::element::Element;
use crate::runtime::isa::Isa;

/// Rows that are looked at: enough to tell the fraction to a percent, and few enough that loading takes no longer.
const SAMPLE: usize = 64;

/// Fraction of the places of `weight` that [packing](super::SparseMatrix::pack) leaves out, by its first rows: zeros of a
/// floating-point matrix, and of a quantized one the most frequent code of each group. `None` for what cannot be packed.
///
/// # Errors
/// Errors from MLX.
pub fn sparsity(weight: Weight) -> MlxResult<Option<f64>> {
    let share = |zeros: usize, all: usize| Some(zeros as f64 / all.max(1) as f64);
    Ok(match weight {
        Weight::Dense(weight) if weight.ndim() == 2 => {
            let weight = row_major(weight)?;
            let count = weight.dim(0).min(SAMPLE as i32) as usize * weight.dim(1) as usize;
            match weight.dtype() {
                Dtype::Float32 => share(zeros::<f32>(&slice(&weight)[..count]), count),
                Dtype::Float16 => share(zeros::<half::f16>(&slice(&weight)[..count]), count),
                Dtype::Bfloat16 => share(zeros::<half::bf16>(&slice(&weight)[..count]), count),
                _ => None,
            }
        }
        Weight::Packed(weight) if is_packable(weight.format) => {
            let levels = Levels::of(&weight, weight.shape()?.0.min(SAMPLE))?;
            share(levels.codes.len() - levels.stored(), levels.codes.len())
        }
        Weight::Dense(_) | Weight::Packed(_) => None,
        Weight::Sparse(matrix) => {
            let (rows, columns) = matrix.shape();
            share(rows * columns - matrix.nonzeros(), rows * columns)
        }
    })
}

fn zeros<T: Element + ArrayElement>(numbers: &[T]) -> usize {
    numbers.iter().filter(|&&x| is_zero(x)).count()
}

/// Fraction of zeros from which products of one row with `weight` are faster sparse than dense, as measured on matrices
/// that no cache holds (`benches/sparse.py`); `None` where they never are.
#[must_use]
pub fn break_even(weight: Weight) -> Option<f64> {
    let bits = match weight {
        Weight::Dense(weight) => weight.item_size() * 8,
        Weight::Packed(weight) if is_packable(weight.format) => weight.format.bits(),
        Weight::Packed(_) => return None,
        Weight::Sparse(_) => return Some(0.0),
    };
    break_even_of(Isa::current(), bits)
}

/// Half the weights of a row may be a little less than half of those that were looked at.
const HALF: f64 = 0.48;

#[cfg(target_arch = "x86_64")]
fn break_even_of(isa: Isa, bits: usize) -> Option<f64> {
    match (super::expand::has_vbmi2(isa), bits) {
        // Codes are brought to their places in memory first, which takes as long as reading all of them.
        (true, 16 | 32) => Some(HALF),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn break_even_of(_isa: Isa, _bits: usize) -> Option<f64> {
    None
}
