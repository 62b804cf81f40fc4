//! `LayerNorm`.

use std::ffi::CStr;

use mlx_rs::{Array, fast};

use super::{are_floats, check, cpu};
use crate::error::MlxResult;
use crate::mlx::apply::{apply, apply_many};
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::element::{Element, narrow_to, widened, with_element};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut};

/// Applies `LayerNorm` to `x`: `[..., hidden]` with `weight` and `bias`: `[hidden]`.
///
/// # Errors
/// Incompatible shapes.
pub fn layer_norm(x: &Array, weight: &Array, bias: &Array, eps: f32) -> MlxResult<Array> {
    if !(on_cpu() && are_floats(&[x, weight, bias])) {
        return layer_norm_reference(x, weight, bias, eps);
    }
    check(x, weight)?;
    check(x, bias)?;
    apply(LayerNorm { eps }, &[x, weight, bias], x.shape(), x.dtype())
}

/// Reference implementation of [`layer_norm`] by MLX.
///
/// # Errors
/// Incompatible shapes.
pub fn layer_norm_reference(x: &Array, weight: &Array, bias: &Array, eps: f32) -> MlxResult<Array> {
    fast::layer_norm(x, weight, bias, eps)?.as_dtype(x.dtype())
}

struct LayerNorm {
    eps: f32,
}

impl HostOp for LayerNorm {
    const NAME: &'static CStr = c"EatLayerNorm";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (x, weight, bias) = (&inputs[0].data, widened(&inputs[1].data), widened(&inputs[2].data));
        with_element!(x, T => {
            let normed = T::of_mut(&mut outputs[0].data);
            cpu::layer_norm(Isa::current(), T::of(x), &weight, &bias, self.eps, normed);
        });
    }

    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let inputs = [&ctx.inputs[0], &ctx.inputs[1], &ctx.cotangents[0]];
        let output = |n: usize| (ctx.inputs[n].shape(), ctx.inputs[n].dtype());
        let outputs = [output(0), output(1), output(2)];
        let wanted = if argnums.iter().any(|&n| n > 0) { 3 } else { 1 };
        let grads = apply_many(LayerNormBackward { eps: self.eps }, &inputs, &outputs[..wanted])?;
        Ok(argnums.iter().map(|&n| grads[n].clone()).collect())
    }
}

/// Inputs `x`, `weight` and the gradient of the norm; outputs the gradient of `x`, and those of the weight
/// and the bias if the node has them.
struct LayerNormBackward {
    eps: f32,
}

impl HostOp for LayerNormBackward {
    const NAME: &'static CStr = c"EatLayerNormBackward";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (x, weight, grad) = (&inputs[0].data, widened(&inputs[1].data), &inputs[2].data);
        let Some((dx, parameters)) = outputs.split_first_mut() else { return };
        let mut wide = vec![0.0; parameters.len() * weight.len()];
        with_element!(x, T => {
            let rows = [T::of(x), T::of(grad)];
            let dx = T::of_mut(&mut dx.data);
            cpu::layer_norm_backward(Isa::current(), rows, &weight, self.eps, dx, &mut wide);
        });
        for (i, parameter) in parameters.iter_mut().enumerate() {
            narrow_to(&wide[i * weight.len()..][..weight.len()], &mut parameter.data);
        }
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}
