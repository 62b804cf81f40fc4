//! Reading and replacing the weight of one layer.

use std::collections::BTreeSet;

use mlx_rs::{Array, Dtype};

use super::format::describe;
use super::grid::Grid;
use super::plan::Plan;
use super::report::LayerReport;
use crate::kernels::quantized::{Format, PackedWeight, Quantized, dequantize, pack, quantize};
use crate::models::Model;
use crate::nn::quantized::WeightMut;
use crate::params::{Tensors, set_parameters};
use crate::{Error, Result, kernels};

/// A dense weight on its way to codes.
pub(super) struct Matrix {
    /// `[rows, columns]`
    pub values: Vec<f32>,
    pub columns: usize,
    /// Dtype of the weight, and of the scales.
    pub dtype: Dtype,
}

impl Matrix {
    /// Reads the weight at `path`.
    ///
    /// # Errors
    /// Values that are not finite.
    pub(super) fn read(path: &str, weight: &WeightMut) -> Result<Self> {
        let dense = &weight.weight;
        let wide = dense.as_dtype(Dtype::Float32)?.contiguous()?;
        kernels::eval([&wide])?;
        let values = wide.as_slice::<f32>().to_vec();
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let columns = dense.dim(1) as usize;
            return Err(Error::ModelLoading(format!(
                "\"{path}.weight\" holds {} at [{}, {}]: the checkpoint is damaged",
                values[index],
                index / columns,
                index % columns
            )));
        }
        Ok(Self { values, columns: dense.dim(1) as usize, dtype: dense.dtype() })
    }
}

/// Replaces `weight` by `codes` on `grid`.
///
/// # Errors
/// Errors from MLX.
pub(super) fn store(weight: WeightMut, grid: &Grid, codes: &[u8], dtype: Dtype) -> Result<()> {
    let (rows, columns) = (weight.weight.dim(0), weight.weight.dim(1));
    let (bits, group) = (grid.format.bits() as i32, grid.format.group_size() as i32);
    let words = Array::from_slice(&pack(codes, grid.format.bits()), &[rows, columns / 32 * bits]);
    let groups = |values: &[f32]| Array::from_slice(values, &[rows, columns / group]).as_dtype(dtype);
    let (scales, biases) = (groups(&grid.scales)?, groups(&grid.biases)?);
    kernels::eval([&words, &scales, &biases])?;
    replace(weight, (words, scales, Some(biases)), grid.format);
    Ok(())
}

/// Replaces `weight` by what MLX rounds it to in `format`, and returns the squared error relative to the squares.
///
/// # Errors
/// Errors from MLX.
pub(super) fn round_as_mlx(weight: WeightMut, format: Format) -> Result<f64> {
    let (codes, scales, biases) = quantize(weight.weight, format)?;
    let packed = PackedWeight { codes: &codes, scales: &scales, biases: biases.as_ref(), format };
    let dense = weight.weight.as_dtype(Dtype::Float32)?;
    let error = dequantize(packed, Dtype::Float32)?.subtract(&dense)?.square()?.sum(None)?;
    let square = dense.square()?.sum(None)?;
    // Together, so that the dense weight is freed before the next one is quantized.
    kernels::eval([&codes, &scales, &error, &square].into_iter().chain(&biases))?;
    let [error, square] = [error, square].map(|sum| f64::from(sum.item_exact::<f32>()));
    replace(weight, (codes, scales, biases), format);
    Ok(if square > 0.0 { error / square } else { 0.0 })
}

/// Replaces a dense weight.
fn replace(weight: WeightMut, (codes, scales, biases): Quantized, format: Format) {
    let WeightMut { weight, scales: old_scales, biases: old_biases, format: old_format } = weight;
    (*weight, *old_scales, *old_biases, *old_format) = (codes, Some(scales), biases, Some(format));
}

/// Calls `change` with the weight at `path`.
///
/// # Errors
/// Errors of `change`.
pub(super) fn with_weight<T>(
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

impl LayerReport {
    /// The report of a layer whose codes were chosen by `technique`.
    pub(super) fn new(path: &str, format: Format, technique: &str, weight_error: f64) -> Self {
        Self {
            path: path.to_owned(),
            format: describe(format),
            technique: technique.to_owned(),
            weight_error,
            tokens: 0,
            damping: None,
        }
    }
}

/// Puts the parameters of a finished block back into `model`; their formats are those of `plan`.
///
/// # Errors
/// Errors from MLX.
pub(super) fn restore(model: &mut Model, mut parameters: Tensors, plan: &Plan) -> Result<()> {
    model.visit_quantizable(&mut |path, weight| {
        let Some(scales) = parameters.remove(&format!("{path}.scales")) else { return Ok(()) };
        *weight.scales = Some(scales);
        *weight.biases = parameters.remove(&format!("{path}.biases"));
        *weight.format = plan.formats.get(path).copied();
        if let Some(codes) = parameters.remove(&format!("{path}.weight")) {
            *weight.weight = codes;
        }
        Ok(())
    })?;
    Ok(set_parameters(model, &parameters)?)
}

/// Dequantizes all weights to the dtype of `model`, and returns the key paths of those that were quantized.
///
/// # Errors
/// Errors from MLX.
pub(super) fn dequantize_all(model: &mut Model) -> Result<BTreeSet<String>> {
    let (dtype, mut found) = (model.dtype(), BTreeSet::new());
    model.visit_quantizable(&mut |path, weight| {
        if weight.format.is_some() {
            found.insert(path.to_owned());
        }
        Ok(weight.dequantize(dtype)?)
    })?;
    Ok(found)
}
