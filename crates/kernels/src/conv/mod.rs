//! One- and two-dimensional convolution (cross-correlation), channels last.
//!
//! `y[n, i, o] = Σ x[n, i·stride + k·dilation - padding, c]·w[o, k, c]` over kernel positions `k` and
//! the input channels `c` of the group of `o`, with zero padding.
//!
//! | operand | [`conv1d`] | [`conv2d`] |
//! |---|---|---|
//! | `x` | `[batch, length, in]` | `[batch, height, width, in]` |
//! | `w` | `[out, kernel, in/groups]` | `[out, kernel height, kernel width, in/groups]` |
//! | result | `[batch, length', out]` | `[batch, height', width', out]` |
//!
//! in one dtype, accumulated in f32, with `length' = ⌊(length + 2·padding - dilation·(kernel - 1) - 1) / stride⌋ + 1`.
//!
//! On the CPU a convolution is a product with the im2col matrix
//! ([Chellapilla et al.](https://inria.hal.science/inria-00112631)), which is never materialized: panels are packed from
//! the pixels. Depthwise convolutions are direct loops.

use std::ffi::CStr;

use mlx_rs::{Array, Dtype, ops};

use crate::error::MlxResult;
use crate::gemm::precision;
use crate::mlx::apply::apply;
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::element::{Element as _, with_element};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut};
use geometry::Geometry;

mod depthwise;
mod geometry;
mod grid;
mod patches;
mod product;

/// Options of a convolution over `D` spatial dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options<const D: usize> {
    /// Stride of the kernel.
    pub stride: [usize; D],
    /// Zero padding added to both sides.
    pub padding: [usize; D],
    /// Spacing between kernel elements.
    pub dilation: [usize; D],
    /// Number of groups; divides the input and output channels.
    pub groups: usize,
}

impl<const D: usize> Default for Options<D> {
    fn default() -> Self {
        Self { stride: [1; D], padding: [0; D], dilation: [1; D], groups: 1 }
    }
}

/// Applies a 1D convolution. See the [module](self) for shapes.
///
/// # Errors
/// Incompatible shapes or invalid options, named in the message.
pub fn conv1d(x: &Array, w: &Array, options: Options<1>) -> MlxResult<Array> {
    convolve("conv1d", x, w, options, conv1d_reference)
}

/// Applies a 2D convolution. See the [module](self) for shapes.
///
/// # Errors
/// Incompatible shapes or invalid options, named in the message.
pub fn conv2d(x: &Array, w: &Array, options: Options<2>) -> MlxResult<Array> {
    convolve("conv2d", x, w, options, conv2d_reference)
}

/// Reference implementation of [`conv1d`] by MLX.
///
/// # Errors
/// Incompatible shapes.
pub fn conv1d_reference(x: &Array, w: &Array, options: Options<1>) -> MlxResult<Array> {
    let [stride, padding, dilation] =
        [options.stride, options.padding, options.dilation].map(|[length]| length as i32);
    ops::conv1d(x, w, stride, padding, dilation, options.groups as i32)
}

/// Reference implementation of [`conv2d`] by MLX.
///
/// # Errors
/// Incompatible shapes.
pub fn conv2d_reference(x: &Array, w: &Array, options: Options<2>) -> MlxResult<Array> {
    let [stride, padding, dilation] = [options.stride, options.padding, options.dilation]
        .map(|[height, width]| (height as i32, width as i32));
    ops::conv2d(x, w, stride, padding, dilation, options.groups as i32)
}

fn convolve<const D: usize>(
    name: &str,
    x: &Array,
    w: &Array,
    options: Options<D>,
    reference: fn(&Array, &Array, Options<D>) -> MlxResult<Array>,
) -> MlxResult<Array> {
    let geometry = Geometry::of(name, x.shape(), w.shape(), options)?;
    let float = matches!(x.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if !on_cpu() || !float || x.dtype() != w.dtype() {
        return reference(x, w, options);
    }
    let mut shape = x.shape().to_vec();
    let last = geometry.target.into_iter().chain([geometry.outputs]).rev();
    for (dim, extent) in shape[1..].iter_mut().rev().zip(last) {
        *dim = extent as i32;
    }
    apply(Conv { geometry }, &[x, w], &shape, x.dtype())
}

/// Inputs `x` and `w`.
struct Conv {
    geometry: Geometry,
}

impl HostOp for Conv {
    const NAME: &'static CStr = c"EatConv";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (isa, geometry, precision) = (Isa::current(), &self.geometry, precision(&inputs[0]));
        let (x, w) = (&inputs[0].data, &inputs[1].data);
        with_element!(x, T => {
            let (x, w, y) = (T::of(x), T::of(w), T::of_mut(&mut outputs[0].data));
            if geometry.is_depthwise() {
                depthwise::forward(isa, geometry, x, w, y);
            } else {
                product::forward(isa, precision, geometry, x, w, y);
            }
        });
    }

    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let (geometry, grad) = (self.geometry, &ctx.cotangents[0]);
        let [x, w] = [&ctx.inputs[0], &ctx.inputs[1]];
        let gradient = |&n: &usize| match n {
            0 => apply(InputGradient { geometry }, &[grad, w], x.shape(), x.dtype()),
            _ => apply(WeightGradient { geometry }, &[x, grad], w.shape(), w.dtype()),
        };
        argnums.iter().map(gradient).collect()
    }
}

/// Inputs the gradient of the result and `w`; output the gradient of `x`.
struct InputGradient {
    geometry: Geometry,
}

impl HostOp for InputGradient {
    const NAME: &'static CStr = c"EatConvInputGradient";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (isa, geometry, precision) = (Isa::current(), &self.geometry, precision(&inputs[0]));
        let (dy, w) = (&inputs[0].data, &inputs[1].data);
        with_element!(dy, T => {
            let (dy, w, dx) = (T::of(dy), T::of(w), T::of_mut(&mut outputs[0].data));
            if geometry.is_depthwise() {
                depthwise::input_gradient(isa, geometry, dy, w, dx);
            } else {
                product::input_gradient(isa, precision, geometry, dy, w, dx);
            }
        });
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

/// Inputs `x` and the gradient of the result; output the gradient of `w`.
struct WeightGradient {
    geometry: Geometry,
}

impl HostOp for WeightGradient {
    const NAME: &'static CStr = c"EatConvWeightGradient";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (isa, geometry, precision) = (Isa::current(), &self.geometry, precision(&inputs[0]));
        let (x, dy) = (&inputs[0].data, &inputs[1].data);
        with_element!(x, T => {
            let (x, dy, dw) = (T::of(x), T::of(dy), T::of_mut(&mut outputs[0].data));
            if geometry.is_depthwise() {
                depthwise::weight_gradient(isa, geometry, x, dy, dw);
            } else {
                product::weight_gradient(isa, precision, geometry, x, dy, dw);
            }
        });
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

#[cfg(test)]
pub(super) mod tests;
