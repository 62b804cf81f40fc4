//! `softmax(x)ᵢ = exp(xᵢ) / Σⱼ exp(xⱼ)` over the last dimension.
//!
//! | operand | shape |
//! |---|---|
//! | `x`, result | `[..., n]`, the same dtype; computed in f32 |
//!
//! As in MLX, the softmax of a row of -∞ is NaN.

use std::ffi::CStr;

use mlx_rs::ops::softmax_axis;
use mlx_rs::{Array, Dtype};

use crate::error::MlxResult;
use crate::mlx::apply::apply;
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::element::{Element, with_element};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut};

mod cpu;

/// Applies the softmax over the last dimension. See the [module](self) for shapes.
///
/// # Errors
/// A zero-dimensional `x`.
pub fn softmax(x: &Array) -> MlxResult<Array> {
    let float = matches!(x.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if !on_cpu() || !float || x.ndim() == 0 {
        return reference(x);
    }
    apply(Softmax, &[x], x.shape(), x.dtype())
}

/// Reference implementation by MLX.
///
/// # Errors
/// A zero-dimensional `x`.
pub fn reference(x: &Array) -> MlxResult<Array> {
    softmax_axis(x, -1, true)
}

struct Softmax;

impl HostOp for Softmax {
    const NAME: &'static CStr = c"EatSoftmax";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (x, columns) = (&inputs[0].data, columns(inputs[0].shape));
        with_element!(x, T => {
            cpu::softmax(Isa::current(), columns, T::of(x), T::of_mut(&mut outputs[0].data));
        });
    }

    fn vjp(&self, ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let y = &ctx.outputs[0];
        Ok(vec![apply(SoftmaxBackward, &[y, &ctx.cotangents[0]], y.shape(), y.dtype())?])
    }
}

/// Inputs the result and its gradient; output the gradient of `x`.
struct SoftmaxBackward;

impl HostOp for SoftmaxBackward {
    const NAME: &'static CStr = c"EatSoftmaxBackward";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (y, grad, columns) = (&inputs[0].data, &inputs[1].data, columns(inputs[0].shape));
        with_element!(y, T => {
            let dx = T::of_mut(&mut outputs[0].data);
            cpu::softmax_backward(Isa::current(), columns, T::of(y), T::of(grad), dx);
        });
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

fn columns(shape: &[i32]) -> usize {
    shape.last().map_or(1, |&dim| dim as usize)
}

#[cfg(test)]
mod tests;
