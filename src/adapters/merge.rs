//! Merging adapters into the weights of a network: `W' = W + s·(A·B)ᵀ`
//! ([LoRA](https://arxiv.org/abs/2106.09685), section 4.1), with rows rescaled to their
//! [magnitudes](crate::nn::linear::dora).

use mlx_rs::ops::maximum;
use mlx_rs::{Array, Dtype};

use super::adapter::Adapter;
use super::attach;
use crate::kernels::matmul::{Transpose, matmul};
use crate::kernels::quantized::{Format, Mode};
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

/// `W' = W + s·(A·B)ᵀ`, added in float32. The weight keeps its format or, if it is quantized, becomes dense
/// in the dtype `dense`.
fn merge_layer(path: &str, layer: &mut Linear, dense: Option<Dtype>) -> Result<()> {
    let (Some(a), Some(b)) = (&*layer.lora_a, &*layer.lora_b) else { return Ok(()) };
    let wide = |x: &Array| x.as_dtype(Dtype::Float32);
    let delta = matmul(&wide(b)?, &wide(a)?, Transpose { a: true, b: true })?;
    let delta = delta.multiply(Array::from_f32(layer.low_rank.scale))?;
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
    layer.weight_mut().dequantize(Dtype::Float32)?;
    let mut weight = wide(&layer.weight)?.add(delta)?;
    if let Some(m) = &*layer.m {
        weight = weight.multiply(stretch(&weight, &wide(m)?)?)?;
    }
    *layer.weight = weight.as_dtype(dense.filter(|_| format.is_some()).unwrap_or(stored))?;
    // Evaluated now, so that the old weight is freed before the next one is merged.
    kernels::eval([&*layer.weight])?;
    if let (Some(format), None) = (format, dense) {
        layer.weight_mut().quantize(format)?;
    }
    Ok(())
}

/// Factors that rescale the rows of `weight` to the norms `m`: `[out, 1]`.
fn stretch(weight: &Array, m: &Array) -> nn::Result<Array> {
    let lengths = weight.square()?.sum_axis(-1, true)?.sqrt()?;
    m.expand_dims(-1)?.divide(maximum(lengths, Array::from_f32(MIN_ROW_NORM))?)
}
