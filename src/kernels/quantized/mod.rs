//! A linear layer with packed weights, `y = x·Wᵀ`, in MLX's own layouts.
//!
//! | operand | shape |
//! |---|---|
//! | `x` | `[..., in]`, f32, f16 or bf16 |
//! | `weight` | `[out, in·bits/32]`, uint32: the codes of a row follow each other from the lowest bit on |
//! | `scales`, `biases` | `[out, in/group_size]` |
//! | `y` | `[..., out]`, in the dtype of `x`, accumulated in f32 |
//!
//! With few rows of `x` each weight is read once, packed as it is, and the memory sets the pace. With many
//! the weights are unpacked into the panels of a blocked product.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, Stream};

use super::device::on_cpu;
use super::disjoint::Disjoint;
use super::element::{narrow_to, widened};
use super::gemm::{Dense, Lanes, Packed, Precision, multiply, store};
use super::isa::Isa;
use super::op::{
    Backward, HostOp, MlxResult, Operand, OperandMut, SliceMut, apply, no_gradient, with_floats,
};
use super::scratch;

mod activations;
mod format;
mod gemv;
#[cfg(target_arch = "x86_64")]
mod gemv_avx512;
#[cfg(target_arch = "x86_64")]
mod prefill_avx512;
mod unpack;
#[cfg(target_arch = "x86_64")]
mod unpack_avx512;

pub(super) use format::QuantizedRows;
pub use format::{Format, Mode};

/// How products are computed, at least; sums are f32 in all cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accuracy {
    /// In f32.
    F32,
    /// Activations and weights may be rounded to bf16.
    Bf16,
    /// Activations may be rounded to integers of 8 bits with a scale per 32 or 64 of them. For inference:
    /// gradients are computed as with [`Bf16`](Self::Bf16).
    Int8,
}

impl Accuracy {
    fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 | Self::Int8 => Precision::Bf16,
        }
    }
}

/// See the [module](self) for shapes. Differentiable with respect to `x`.
///
/// `accuracy` has an effect on the CPU only.
///
/// # Errors
/// Shapes or dtypes that do not fit, named in the message.
pub fn quantized_linear(
    x: &Array,
    weight: &Array,
    scales: &Array,
    biases: Option<&Array>,
    format: Format,
    accuracy: Accuracy,
) -> MlxResult<Array> {
    let of = |array: &Array| (array.shape().to_vec(), array.dtype());
    let (packed, scale, bias) = (of(weight), of(scales), biases.map(of));
    let bias = bias.as_ref().map(|(shape, dtype)| (shape.as_slice(), *dtype));
    let (rows, columns) = format.check((&packed.0, packed.1), (&scale.0, scale.1), bias)?;
    if x.ndim() == 0 || x.dim(-1) as usize != columns {
        return Err(Exception::custom(format!(
            "quantized linear: input of shape {:?} does not fit {rows} rows of {columns} weights",
            x.shape()
        )));
    }
    if !on_cpu() || !matches!(x.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16) {
        return reference(x, weight, scales, biases, format);
    }
    let mut shape = x.shape().to_vec();
    shape.pop();
    shape.push(rows as i32);
    let inputs: Vec<_> = [x, weight, scales].into_iter().chain(biases).collect();
    apply(QuantizedLinear { format, accuracy }, &inputs, &shape, x.dtype())
}

/// The same function in MLX's own operations.
///
/// # Errors
/// Shapes that do not fit.
pub fn reference(
    x: &Array,
    weight: &Array,
    scales: &Array,
    biases: Option<&Array>,
    format: Format,
) -> MlxResult<Array> {
    let number = |value: usize| mlx_sys::mlx_optional_int { value: value as i32, has_value: true };
    let stream = Stream::thread_local_or_default();
    // SAFETY: all handles outlive the call; a fresh one stands for biases that are absent. `result` is a
    // fresh handle that `Array` adopts.
    unsafe {
        let absent = mlx_sys::mlx_array_new();
        let mut result = mlx_sys::mlx_array_new();
        let status = mlx_sys::mlx_quantized_matmul(
            &raw mut result,
            x.as_ptr(),
            weight.as_ptr(),
            scales.as_ptr(),
            biases.map_or(absent, Array::as_ptr),
            true,
            number(format.group_size()),
            number(format.bits()),
            format.mode().name().as_ptr(),
            stream.as_ptr(),
        );
        let result = Array::from_ptr(result);
        if status == 0 { Ok(result) } else { Err(Exception::custom("MLX rejected quantized_matmul")) }
    }
}

struct QuantizedLinear {
    format: Format,
    accuracy: Accuracy,
}

/// The packed weights among the inputs of a node, which come second.
fn weights<'a>(format: Format, inputs: &[Operand<'a>]) -> QuantizedRows<'a> {
    let rows = inputs[1].shape[0] as usize;
    QuantizedRows::new(format, rows, inputs[1].data, inputs[2].data, inputs.get(3).map(|biases| biases.data))
}

impl HostOp for QuantizedLinear {
    const NAME: &'static CStr = c"EatQuantizedLinear";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let isa = Isa::current();
        let weights = weights(self.format, inputs);
        let x = widened(&inputs[0].data);
        linear(isa, self.accuracy, &x, &weights, &mut outputs[0].data);
    }

    fn vjp(&self, pass: &Backward, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let gradient = |&argument: &usize| {
            if argument != 0 {
                return Err(Exception::custom("packed weights have no gradient: only the input has one"));
            }
            let (x, grad) = (&pass.inputs[0], &pass.cotangents[0]);
            let inputs: Vec<_> = [grad].into_iter().chain(&pass.inputs[1..]).collect();
            let node = InputGradient { format: self.format, precision: self.accuracy.precision() };
            apply(node, &inputs, x.shape(), x.dtype())
        };
        argnums.iter().map(gradient).collect()
    }
}

/// `y = x·weightsᵀ` for any number of rows of `x`.
fn linear(isa: Isa, accuracy: Accuracy, x: &[f32], weights: &QuantizedRows, y: &mut SliceMut) {
    let (n, columns) = (weights.rows, weights.columns);
    let rows = x.len() / columns.max(1);
    if rows <= gemv::MOST_ROWS {
        let len = with_floats!(SliceMut, y, y => y.len());
        let mut wide = scratch::take(len);
        gemv::gemv(isa, accuracy, x, weights, &mut wide);
        return narrow_to(&wide, y);
    }
    #[cfg(target_arch = "x86_64")]
    if accuracy == Accuracy::Int8 && isa >= Isa::Avx512Vnni {
        return with_floats!(SliceMut, y, y => prefill_avx512::multiply(isa, x, weights, y));
    }
    let x = Dense::new(x, (rows, columns));
    let x = Packed::new(isa, accuracy.precision(), Lanes::rows(&x));
    with_floats!(SliceMut, y, y => {
        let y = Disjoint::new(y);
        multiply(isa, &[(&x, Lanes::rows(weights))], |tile| store(isa, tile, None, &y, n));
    });
}

/// `grad·W`
struct InputGradient {
    format: Format,
    precision: Precision,
}

impl HostOp for InputGradient {
    const NAME: &'static CStr = c"EatQuantizedLinearGradient";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let isa = Isa::current();
        let weights = weights(self.format, inputs);
        let grad = widened(&inputs[0].data);
        input_gradient(isa, self.precision, &grad, &weights, &mut outputs[0].data);
    }

    fn vjp(&self, _pass: &Backward, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

fn input_gradient(isa: Isa, precision: Precision, grad: &[f32], weights: &QuantizedRows, x: &mut SliceMut) {
    let grad = Dense::new(grad, (grad.len() / weights.rows.max(1), weights.rows));
    let grad = Packed::new(isa, precision, Lanes::rows(&grad));
    with_floats!(SliceMut, x, x => {
        x.fill(bytemuck::Zeroable::zeroed());
        let x = Disjoint::new(x);
        multiply(isa, &[(&grad, Lanes::columns(weights))], |tile| store(isa, tile, None, &x, weights.columns));
    });
}

#[cfg(test)]
mod tests;
