//! Reading and replacing the weight of one layer.

use std::collections::BTreeSet;

use mlx_rs::ops::concatenate;
use mlx_rs::{Array, Dtype};

use super::format::describe;
use super::grid::Grid;
use super::plan::Plan;
use super::report::LayerReport;
use crate::calibrate::{check_finite, for_each_part};
use crate::kernels::quantized::{Format, PackedWeight, Quantized, dequantize, pack, quantize};
use crate::models::Model;
use crate::nn::quantized::WeightMut;
use crate::params::{Tensors, set_parameters};
use crate::{Result, kernels};

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

/// Replaces the weight at `path` by what MLX rounds it to in `format`, and returns the squared error relative to the
/// squares.
///
/// # Errors
/// Values that are not finite; errors from MLX.
pub(super) fn round_as_mlx(path: &str, weight: WeightMut, format: Format) -> Result<f64> {
    let (mut parts, mut first) = (Vec::new(), 0);
    let (mut errors, mut squares) = (0.0, 0.0);
    let (dtype, columns) = (weight.weight.dtype(), weight.weight.dim(1));
    for_each_part(weight.weight, |wide| {
        check_finite(path, wide.as_slice::<f32>(), columns, first)?;
        first += wide.dim(0) as usize;
        let (codes, scales, biases) = quantize(&wide.as_dtype(dtype)?, format)?;
        let packed = PackedWeight { codes: &codes, scales: &scales, biases: biases.as_ref(), format };
        let error = dequantize(packed, Dtype::Float32)?.subtract(&wide)?.square()?.sum(None)?;
        let square = wide.square()?.sum(None)?;
        kernels::eval([&codes, &scales, &error, &square].into_iter().chain(&biases))?;
        errors += f64::from(error.item_exact::<f32>());
        squares += f64::from(square.item_exact::<f32>());
        parts.push((codes, scales, biases));
        Ok(())
    })?;
    let joined = |arrays: Vec<&Array>| match arrays[..] {
        [array] => Ok(array.clone()),
        _ => concatenate(&arrays, 0),
    };
    let codes = joined(parts.iter().map(|(codes, ..)| codes).collect())?;
    let scales = joined(parts.iter().map(|(_, scales, _)| scales).collect())?;
    let biases: Vec<&Array> = parts.iter().filter_map(|(.., biases)| biases.as_ref()).collect();
    let biases = if biases.is_empty() { None } else { Some(joined(biases)?) };
    kernels::eval([&codes, &scales].into_iter().chain(&biases))?;
    replace(weight, (codes, scales, biases), format);
    Ok(if squares > 0.0 { errors / squares } else { 0.0 })
}

/// Replaces a dense weight.
fn replace(weight: WeightMut, (codes, scales, biases): Quantized, format: Format) {
    let WeightMut { weight, scales: old_scales, biases: old_biases, format: old_format } = weight;
    (*weight, *old_scales, *old_biases, *old_format) = (codes, Some(scales), biases, Some(format));
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
