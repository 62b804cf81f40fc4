//! The weight of one layer, to be read and replaced.

use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};

use crate::models::Model;
use crate::nn::quantized::WeightMut;
use crate::{Error, Result, kernels};

/// The weight of a layer in f32.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// `[rows, columns]`
    pub values: Vec<f32>,
    /// Length of a row.
    pub columns: usize,
    /// Dtype of the weight.
    pub dtype: Dtype,
}

impl Matrix {
    /// Reads the weight at `path`.
    ///
    /// # Errors
    /// Values that are not finite.
    pub fn read(path: &str, weight: &WeightMut) -> Result<Self> {
        let dense = &weight.weight;
        let mut values = Vec::with_capacity(dense.size());
        for_each_part(dense, |wide| {
            values.extend_from_slice(wide.as_slice::<f32>());
            Ok(())
        })?;
        check_finite(path, &values, dense.dim(1), 0)?;
        Ok(Self { values, columns: dense.dim(1) as usize, dtype: dense.dtype() })
    }
}

/// Numbers that are converted to f32 at once: of a large embedding, all together take more memory than the model.
const NUMBERS_AT_ONCE: i32 = 1 << 24;

/// Calls `work` with some rows of `dense` at a time, in f32.
///
/// # Errors
/// Errors of `work` and from MLX.
pub fn for_each_part(dense: &Array, mut work: impl FnMut(Array) -> Result<()>) -> Result<()> {
    let (rows, step) = (dense.dim(0), (NUMBERS_AT_ONCE / dense.dim(1).max(1)).max(1));
    for start in (0..rows).step_by(step as usize) {
        let part = dense.try_index(start..rows.min(start + step))?;
        let wide = part.as_dtype(Dtype::Float32)?.contiguous()?;
        kernels::eval([&wide])?;
        work(wide)?;
    }
    Ok(())
}

/// Checks rows of the weight at `path` from row number `first` on.
///
/// # Errors
/// A value that is not finite.
pub fn check_finite(path: &str, values: &[f32], columns: i32, first: usize) -> Result<()> {
    let Some(index) = values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let columns = columns as usize;
    let (row, column) = (first + index / columns, index % columns);
    let value = values[index];
    Err(Error::ModelLoading(format!(
        "\"{path}.weight\" holds {value} at [{row}, {column}]: the checkpoint is damaged"
    )))
}

/// Calls `change` with the weight at `path`.
///
/// # Errors
/// Errors of `change`.
pub fn with_weight<T>(
    model: &mut Model,
    path: &str,
    change: impl FnOnce(WeightMut) -> Result<T>,
) -> Result<T> {
    let (mut change, mut outcome) = (Some(change), None);
    model.visit_quantizable(&mut |visited, weight| {
        if visited == path
            && let Some(change) = change.take()
        {
            outcome = Some(change(weight)?);
        }
        Ok(())
    })?;
    outcome.ok_or_else(|| Error::Config(format!("the model has no layer {path}")))
}
