//! Operands to measure with. Speed does not depend on the numbers, as long as they are ordinary ones.

use mlx_rs::{Array, Dtype};

use crate::error::MlxResult;
use crate::quantized::{Format, PackedWeight, quantize};
use crate::sparse::SparseMatrix;

/// A packed matrix that owns its arrays; affine, so with biases.
pub(super) struct Packed {
    pub codes: Array,
    pub scales: Array,
    pub biases: Array,
    pub format: Format,
}

/// Evenly distributed bits.
fn words(count: usize, seed: u32) -> impl Iterator<Item = u32> {
    // A linear congruential generator, whose upper half is mixed into its poorer lower one.
    let mut state = u64::from(seed);
    (0..count).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    })
}

/// Numbers in [-1, 1).
pub(super) fn floats(shape: &[usize], dtype: Dtype, seed: u32) -> MlxResult<Array> {
    let count = shape.iter().product();
    let values: Vec<f32> =
        words(count, seed).map(|word| (word >> 8) as f32 / (1 << 23) as f32 - 1.0).collect();
    let array = Array::from_slice(&values, &extents(shape)).as_dtype(dtype)?;
    array.eval()?;
    Ok(array)
}

/// Numbers below `limit`.
pub(super) fn ids(shape: &[usize], limit: usize, seed: u32) -> Array {
    let count = shape.iter().product();
    let values: Vec<u32> = words(count, seed).map(|word| word % limit as u32).collect();
    Array::from_slice(&values, &extents(shape))
}

/// `[rows, columns]`, with scales and biases in `dtype`.
pub(super) fn packed(rows: usize, columns: usize, format: Format, dtype: Dtype) -> MlxResult<Packed> {
    let (width, groups) = (columns * format.bits() / 32, columns / format.group_size());
    let codes: Vec<u32> = words(rows * width, 3).collect();
    Ok(Packed {
        codes: Array::from_slice(&codes, &extents(&[rows, width])),
        scales: floats(&[rows, groups], dtype, 4)?,
        biases: floats(&[rows, groups], dtype, 5)?,
        format,
    })
}

/// `[rows, columns]` with this fraction of zeros, packed as a sparse matrix.
pub(super) fn sparse(
    rows: usize,
    columns: usize,
    format: Option<Format>,
    dtype: Dtype,
    sparsity: f64,
) -> MlxResult<SparseMatrix> {
    let limit = (sparsity * f64::from(u32::MAX)) as u32;
    let kept = words(rows * columns, 6).map(|word| if word < limit { 0.0 } else { 1.0 });
    let mask = Array::from_slice(&kept.collect::<Vec<f32>>(), &extents(&[rows, columns]));
    let weight = floats(&[rows, columns], dtype, 2)?.multiply(mask.as_dtype(dtype)?)?;
    let Some(format) = format else { return SparseMatrix::from_dense(&weight) };
    let (codes, scales, biases) = quantize(&weight, format)?;
    mlx_rs::transforms::eval([&codes, &scales].into_iter().chain(&biases))?;
    SparseMatrix::from_quantized(PackedWeight {
        codes: &codes,
        scales: &scales,
        biases: biases.as_ref(),
        format,
    })
}

fn extents(shape: &[usize]) -> Vec<i32> {
    shape.iter().map(|&extent| extent as i32).collect()
}
