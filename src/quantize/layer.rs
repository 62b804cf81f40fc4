//! Reading and replacing the weight of one layer.

use mlx_rs::{Array, Dtype};

use super::grid::Grid;
use super::plan::Plan;
use super::report::LayerReport;
use crate::kernels::quantized::{Format, Mode, pack};
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
    (*weight.weight, *weight.scales, *weight.biases) = (words, Some(scales), Some(biases));
    *weight.format = Some(grid.format);
    Ok(())
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

/// Names a format as settings do.
pub(super) fn describe(format: Format) -> String {
    match format.mode() {
        Mode::Affine => format!("{}/{}", format.bits(), format.group_size()),
        Mode::Mxfp4 => "mxfp4".to_owned(),
    }
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

/// Dequantizes all weights to the dtype of `model`.
///
/// # Errors
/// Errors from MLX.
pub(super) fn dequantize_all(model: &mut Model) -> Result<()> {
    let dtype = model.dtype();
    model.visit_quantizable(&mut |_, weight| Ok(weight.dequantize(dtype)?))
}
