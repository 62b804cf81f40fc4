//! Normalization over the last dimension.
//!
//! | operation | result |
//! |---|---|
//! | [`rms_norm`] | `x / √(mean(x²) + eps) · (weight + offset)`, [RMSNorm](https://arxiv.org/abs/1910.07467) |
//! | [`residual_rms_norm`] | `s = x + delta`, and [`rms_norm`] of `s` |
//! | [`layer_norm`] | `(x - mean) / √(variance + eps) · weight + bias`, [LayerNorm](https://arxiv.org/abs/1607.06450) |
//!
//! | operand | shape |
//! |---|---|
//! | `x`, `delta`, results | `[..., hidden]`, in the dtype of `x` |
//! | `weight`, `bias` | `[hidden]`, in any floating-point dtype |
//!
//! Gradients of the weight and bias are computed only if requested: with adapters, norms are usually frozen.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, fast};

use crate::error::MlxResult;
use crate::mlx::apply::{apply, apply_many};
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::element::{Element, narrow_to, widened, with_element};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut};

mod cpu;
mod layer;

pub use layer::{layer_norm, layer_norm_reference};

/// Options of `RMSNorm`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsNormOptions {
    /// Term added to the mean square for numerical stability.
    pub eps: f32,
    /// Constant added to the weight: 1 for Gemma, whose checkpoints store `weight - 1`, otherwise 0.
    pub offset: f32,
}

/// Applies `RMSNorm` to `x`: `[..., hidden]` with `weight`: `[hidden]`.
///
/// # Errors
/// Incompatible shapes.
pub fn rms_norm(x: &Array, weight: &Array, rms: RmsNormOptions) -> MlxResult<Array> {
    if !(on_cpu() && are_floats(&[x, weight])) {
        return rms_norm_reference(x, weight, rms);
    }
    check(x, weight)?;
    apply(RmsNorm { rms }, &[x, weight], x.shape(), x.dtype())
}

/// Adds `delta` to `x`, both `[..., hidden]`, and returns the sum and its `RMSNorm` with `weight`: `[hidden]`.
///
/// # Errors
/// Incompatible shapes.
pub fn residual_rms_norm(
    x: &Array,
    delta: &Array,
    weight: &Array,
    rms: RmsNormOptions,
) -> MlxResult<(Array, Array)> {
    if !(on_cpu() && are_floats(&[x, delta, weight])) {
        return residual_rms_norm_reference(x, delta, weight, rms);
    }
    check(x, weight)?;
    if x.shape() != delta.shape() {
        let (x, delta) = (x.shape(), delta.shape());
        return Err(Exception::custom(format!("residual_rms_norm: shapes {x:?} and {delta:?} differ")));
    }
    let delta = delta.as_dtype(x.dtype())?;
    let output = (x.shape(), x.dtype());
    pair(apply_many(ResidualRmsNorm { rms }, &[x, &delta, weight], &[output, output])?)
}

/// Reference implementation of [`rms_norm`] by MLX.
///
/// # Errors
/// Incompatible shapes.
pub fn rms_norm_reference(x: &Array, weight: &Array, rms: RmsNormOptions) -> MlxResult<Array> {
    if rms.offset == 0.0 {
        return fast::rms_norm(x, Some(weight), rms.eps)?.as_dtype(x.dtype());
    }
    // In f32: the stored distances are small against the offset.
    let weight = weight.as_dtype(Dtype::Float32)?.add(Array::from_f32(rms.offset))?;
    fast::rms_norm(x, Some(&weight), rms.eps)?.as_dtype(x.dtype())
}

/// Reference implementation of [`residual_rms_norm`] by MLX.
///
/// # Errors
/// Incompatible shapes.
pub fn residual_rms_norm_reference(
    x: &Array,
    delta: &Array,
    weight: &Array,
    rms: RmsNormOptions,
) -> MlxResult<(Array, Array)> {
    let sum = x.add(delta)?.as_dtype(x.dtype())?;
    let normed = rms_norm_reference(&sum, weight, rms)?;
    Ok((sum, normed))
}

fn are_floats(arrays: &[&Array]) -> bool {
    arrays.iter().all(|x| matches!(x.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16))
}

fn check(x: &Array, parameter: &Array) -> MlxResult<()> {
    let fits = matches!((x.shape(), parameter.shape()), ([.., hidden], [length]) if hidden == length);
    if fits {
        return Ok(());
    }
    let (x, parameter) = (x.shape(), parameter.shape());
    Err(Exception::custom(format!("norm: an input of shape {x:?} and a weight of shape {parameter:?}")))
}

fn pair(arrays: Vec<Array>) -> MlxResult<(Array, Array)> {
    let [first, second] = <[Array; 2]>::try_from(arrays)
        .map_err(|arrays| Exception::custom(format!("{} outputs where two belong", arrays.len())))?;
    Ok((first, second))
}

struct RmsNorm {
    rms: RmsNormOptions,
}

impl HostOp for RmsNorm {
    const NAME: &'static CStr = c"EatRmsNorm";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (x, weight) = (&inputs[0].data, self.rms.weight(&inputs[1]));
        with_element!(x, T => {
            cpu::rms_norm(Isa::current(), T::of(x), &weight, self.rms.eps, T::of_mut(&mut outputs[0].data));
        });
    }

    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let [x, weight] = [&ctx.inputs[0], &ctx.inputs[1]];
        let grads = RmsNormBackward { rms: self.rms }
            .apply(&[x, weight, &ctx.cotangents[0]], argnums.contains(&1))?;
        Ok(argnums.iter().map(|&n| grads[n].clone()).collect())
    }
}

struct ResidualRmsNorm {
    rms: RmsNormOptions,
}

impl HostOp for ResidualRmsNorm {
    const NAME: &'static CStr = c"EatResidualRmsNorm";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (x, delta, weight) = (&inputs[0].data, &inputs[1].data, self.rms.weight(&inputs[2]));
        let [sum, normed] = outputs else { unreachable!("the node has two outputs") };
        with_element!(x, T => {
            let outputs = [T::of_mut(&mut sum.data), T::of_mut(&mut normed.data)];
            cpu::residual_rms_norm(Isa::current(), [T::of(x), T::of(delta)], &weight, self.rms.eps, outputs);
        });
    }

    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let (sum, weight) = (&ctx.outputs[0], &ctx.inputs[2]);
        let [sum_grad, normed_grad] = [&ctx.cotangents[0], &ctx.cotangents[1]];
        let grads = RmsNormBackward { rms: self.rms }
            .apply(&[sum, weight, normed_grad, sum_grad], argnums.contains(&2))?;
        // The sum passes its gradient on to both of its terms.
        let delta_grad = || grads[0].as_dtype(ctx.inputs[1].dtype());
        argnums
            .iter()
            .map(|&n| match n {
                0 => Ok(grads[0].clone()),
                1 => delta_grad(),
                _ => Ok(grads[1].clone()),
            })
            .collect()
    }
}

/// Inputs `x`, `weight`, the gradient of the norm, and with a residual that of the sum;
/// outputs the gradient of `x`, and that of the weight if the node has a second output.
struct RmsNormBackward {
    rms: RmsNormOptions,
}

impl RmsNormBackward {
    fn apply(self, inputs: &[&Array], with_weight: bool) -> MlxResult<Vec<Array>> {
        let outputs = [inputs[0], inputs[1]].map(|input| (input.shape(), input.dtype()));
        apply_many(self, inputs, &outputs[..=usize::from(with_weight)])
    }
}

impl HostOp for RmsNormBackward {
    const NAME: &'static CStr = c"EatRmsNormBackward";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (x, weight, grad) = (&inputs[0].data, self.rms.weight(&inputs[1]), &inputs[2].data);
        let sum_grad = inputs.get(3);
        let Some((dx, dweight)) = outputs.split_first_mut() else { return };
        let mut wide = vec![0.0; if dweight.is_empty() { 0 } else { weight.len() }];
        with_element!(x, T => {
            let rows = [T::of(x), T::of(grad), sum_grad.map_or(&[], |sum_grad| T::of(&sum_grad.data))];
            let dx = T::of_mut(&mut dx.data);
            cpu::rms_norm_backward(Isa::current(), rows, &weight, self.rms.eps, dx, &mut wide);
        });
        if let Some(dweight) = dweight.first_mut() {
            narrow_to(&wide, &mut dweight.data);
        }
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

impl RmsNormOptions {
    /// What a row is multiplied with.
    fn weight(self, weight: &Operand) -> crate::runtime::scratch::Scratch<f32> {
        let mut wide = widened(&weight.data);
        wide.iter_mut().for_each(|weight| *weight += self.offset);
        wide
    }
}

#[cfg(test)]
mod tests;
