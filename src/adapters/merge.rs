//! Merging adapters into the weights of a network: `W' = W + s·(A·B)ᵀ`
//! ([LoRA](https://arxiv.org/abs/2106.09685), section 4.1), with rows rescaled to their
//! [magnitudes](crate::nn::linear::dora).

use std::collections::{BTreeMap, BTreeSet};

use mlx_rs::ops::maximum;
use mlx_rs::{Array, Dtype};

use super::adapter::Adapter;
use super::attach;
use crate::kernels::linear::Weight;
use crate::kernels::matmul::{Transpose, matmul};
use crate::kernels::quantized::{Format, Mode, dequantize};
use crate::nn::linear::dora::MIN_ROW_NORM;
use crate::nn::{self, Linear, Network};
use crate::{Error, Result, kernels};

/// Merges the low-rank matrices of `adapter`, which is attached to `model`, into its weights. Quantized weights are
/// quantized again in the same format or, with `dense`, become dense in that dtype. Returns the bits of the coarsest
/// merged weight that is quantized.
///
/// # Errors
/// A quantization format that cannot be written.
pub fn merge_weights(
    model: &mut dyn Network,
    adapter: &Adapter,
    dense: Option<Dtype>,
) -> Result<Option<usize>> {
    let mut bits: Option<usize> = None;
    model.visit_linears(&mut |path, layer| {
        if adapter.layers.contains_key(path) {
            merge_layer(path, layer, dense)?;
            bits = layer.format.map(Format::bits).into_iter().chain(bits).min();
        }
        Ok(())
    })?;
    if let Some(dtype) = dense {
        model.visit_quantizable(&mut |_, weight| Ok(weight.dequantize(dtype)?))?;
    }
    attach::clear_low_rank(model)?;
    Ok(bits)
}

/// Merges the low-rank matrices of those of `layers` that are not quantized into weights in float32, in which zeros stay.
/// Returns the former dtypes of the weights, by name.
///
/// # Errors
/// Errors from MLX.
pub fn merge_at_nonzeros(
    model: &mut dyn Network,
    layers: &BTreeSet<String>,
) -> Result<BTreeMap<String, Dtype>> {
    let mut dtypes = BTreeMap::new();
    model.visit_linears(&mut |path, layer| {
        if !layers.contains(path)
            || layer.format.is_some()
            || layer.lora_a.is_none()
            || layer.lora_b.is_none()
        {
            return Ok(());
        }
        let zero = Array::from_f32(0.0).as_dtype(layer.weight.dtype())?;
        let stays = layer.weight.ne(zero)?.as_dtype(Dtype::Float32)?;
        let merged = merged_weight(layer)?.multiply(stays)?;
        kernels::eval([&merged])?;
        dtypes.insert(format!("{path}.weight"), layer.weight.dtype());
        *layer.weight = merged;
        layer.remove_update();
        Ok(())
    })?;
    Ok(dtypes)
}

/// Replaces the weight by the [merged](merged_weight) one. It keeps its format or, if it is quantized, becomes dense in
/// the dtype `dense`.
fn merge_layer(path: &str, layer: &mut Linear, dense: Option<Dtype>) -> Result<()> {
    if layer.lora_a.is_none() || layer.lora_b.is_none() {
        return Ok(());
    }
    let format = layer.format;
    let stored = (*layer.scales).as_ref().unwrap_or(&layer.weight).dtype();
    if dense.is_none()
        && let Some(format) = format.filter(|format| format.mode() != Mode::Affine)
    {
        return Err(Error::Config(format!(
            "\"{path}\" is quantized as {}, in which it cannot be written again: set dequantize",
            format.mode().name().to_uppercase()
        )));
    }
    let weight = merged_weight(layer)?;
    (*layer.scales, *layer.biases, layer.format) = (None, None, None);
    *layer.weight = weight.as_dtype(dense.filter(|_| format.is_some()).unwrap_or(stored))?;
    // Evaluated now, so that the old weight is freed before the next one is merged.
    kernels::eval([&*layer.weight])?;
    if let (Some(format), None) = (format, dense) {
        layer.weight_mut().quantize(format)?;
    }
    Ok(())
}

/// The weight of `layer` with its low-rank matrices, `W + s·(A·B)ᵀ`, in float32.
///
/// # Errors
/// Errors from MLX.
pub fn merged_weight(layer: &Linear) -> Result<Array> {
    let wide = |x: &Array| x.as_dtype(Dtype::Float32);
    let weight = match layer.matrix() {
        Weight::Dense(weight) => wide(weight)?,
        Weight::Packed(weight) => dequantize(weight, Dtype::Float32)?,
    };
    let (Some(a), Some(b)) = (&*layer.lora_a, &*layer.lora_b) else { return Ok(weight) };
    let delta = matmul(&wide(b)?, &wide(a)?, Transpose { a: true, b: true })?;
    let weight = weight.add(delta.multiply(Array::from_f32(layer.low_rank.scale))?)?;
    match &*layer.m {
        Some(m) => Ok(weight.multiply(stretch(&weight, &wide(m)?)?)?),
        None => Ok(weight),
    }
}

/// Factors that rescale the rows of `weight` to the norms `m`: `[out, 1]`.
fn stretch(weight: &Array, m: &Array) -> nn::Result<Array> {
    let lengths = weight.square()?.sum_axis(-1, true)?.sqrt()?;
    m.expand_dims(-1)?.divide(maximum(lengths, Array::from_f32(MIN_ROW_NORM))?)
}
