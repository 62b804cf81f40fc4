//! Activations: `act(x)`, and gated `act(gate) · up`, the middle of the feed-forward blocks of
//! [GLU variants](https://arxiv.org/abs/2002.05202).
//!
//! | operand | shape |
//! |---|---|
//! | `x`, result | the same, any |
//! | `gate`, `up`, result | the same, any; all in the dtype of `gate` |
//!
//! The backward pass recomputes the activation from its inputs, in one node with all gradients.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::ops::{erf, sigmoid, tanh};
use mlx_rs::{Array, Dtype};

use crate::error::MlxResult;
use crate::mlx::apply::{apply, apply_many};
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::element::{Element, with_element};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut};

mod cpu;

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)` ([SiLU](https://arxiv.org/abs/1702.03118)); SwiGLU when gated.
    Silu,
    /// `x · Φ(x)` with the standard normal CDF Φ ([GELU](https://arxiv.org/abs/1606.08415)); `GeGLU` when gated.
    Gelu,
    /// GELU with the `tanh` approximation of Φ, as in Gemma.
    GeluTanh,
    /// `x · sigmoid(1.702 x)`, the approximation of GELU of [CLIP](https://arxiv.org/abs/2103.00020).
    QuickGelu,
}

/// Applies `act(x)`. See the [module](self) for shapes.
///
/// # Errors
/// Errors from MLX.
pub fn activate(activation: Activation, x: &Array) -> MlxResult<Array> {
    let float = matches!(x.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if !on_cpu() || !float {
        return activate_reference(activation, x);
    }
    apply(Activate { activation }, &[x], x.shape(), x.dtype())
}

/// Reference implementation of [`activate`] composed of MLX operations.
///
/// # Errors
/// Errors from MLX.
pub fn activate_reference(activation: Activation, x: &Array) -> MlxResult<Array> {
    x.multiply(share(activation, x)?)
}

/// Applies `act(gate) · up`. See the [module](self) for shapes.
///
/// # Errors
/// Different shapes.
pub fn gated(activation: Activation, gate: &Array, up: &Array) -> MlxResult<Array> {
    let float = matches!(gate.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if !on_cpu() || !float || gate.dtype() != up.dtype() {
        return reference(activation, gate, up);
    }
    if gate.shape() != up.shape() {
        let (gate, up) = (gate.shape(), up.shape());
        return Err(Exception::custom(format!("gated: shapes {gate:?} and {up:?} differ")));
    }
    apply(Gated { activation }, &[gate, up], gate.shape(), gate.dtype())
}

/// Reference implementation composed of MLX operations.
///
/// # Errors
/// Incompatible shapes.
pub fn reference(activation: Activation, gate: &Array, up: &Array) -> MlxResult<Array> {
    gate.multiply(share(activation, gate)?)?.multiply(up)
}

/// `s(x)` of the activation `x · s(x)`.
fn share(activation: Activation, gate: &Array) -> MlxResult<Array> {
    // Constants in the dtype of the gate, so that the result has it too.
    let constant = |x: f32| Array::from_f32(x).as_dtype(gate.dtype());
    match activation {
        Activation::Silu => sigmoid(gate),
        Activation::QuickGelu => sigmoid(gate.multiply(constant(cpu::QUICK)?)?),
        Activation::Gelu => {
            let scaled = gate.multiply(constant(std::f32::consts::FRAC_1_SQRT_2)?)?;
            erf(scaled)?.add(constant(1.0)?)?.multiply(constant(0.5)?)
        }
        Activation::GeluTanh => {
            let cubic = gate.square()?.multiply(constant(cpu::CUBIC)?)?.add(constant(1.0)?)?;
            let inner = gate.multiply(cubic)?.multiply(constant(cpu::SQRT_2_OVER_PI)?)?;
            tanh(inner)?.add(constant(1.0)?)?.multiply(constant(0.5)?)
        }
    }
}

struct Activate {
    activation: Activation,
}

impl HostOp for Activate {
    const NAME: &'static CStr = c"EatActivate";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let x = &inputs[0].data;
        with_element!(x, T => {
            cpu::activate(Isa::current(), self.activation, T::of(x), T::of_mut(&mut outputs[0].data));
        });
    }

    fn vjp(&self, ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let x = &ctx.inputs[0];
        let backward = ActivateBackward { activation: self.activation };
        Ok(vec![apply(backward, &[x, &ctx.cotangents[0]], x.shape(), x.dtype())?])
    }
}

/// Inputs `x` and the gradient of the result; output the gradient of `x`.
struct ActivateBackward {
    activation: Activation,
}

impl HostOp for ActivateBackward {
    const NAME: &'static CStr = c"EatActivateBackward";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let [x, grad] = [&inputs[0].data, &inputs[1].data];
        with_element!(x, T => {
            let dx = T::of_mut(&mut outputs[0].data);
            cpu::activate_backward(Isa::current(), self.activation, [T::of(x), T::of(grad)], dx);
        });
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

struct Gated {
    activation: Activation,
}

impl HostOp for Gated {
    const NAME: &'static CStr = c"EatGated";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let [gate, up] = [&inputs[0].data, &inputs[1].data];
        with_element!(gate, T => {
            let out = T::of_mut(&mut outputs[0].data);
            cpu::gated(Isa::current(), self.activation, T::of(gate), T::of(up), out);
        });
    }

    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let [gate, up] = [&ctx.inputs[0], &ctx.inputs[1]];
        let output = (gate.shape(), gate.dtype());
        let backward = GatedBackward { activation: self.activation };
        let grads = apply_many(backward, &[gate, up, &ctx.cotangents[0]], &[output, output])?;
        Ok(argnums.iter().map(|&n| grads[n].clone()).collect())
    }
}

/// Inputs `gate`, `up` and the gradient of the result; outputs the gradients of `gate` and `up`.
struct GatedBackward {
    activation: Activation,
}

impl HostOp for GatedBackward {
    const NAME: &'static CStr = c"EatGatedBackward";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let [gate, up, grad] = [&inputs[0].data, &inputs[1].data, &inputs[2].data];
        let [dgate, dup] = outputs else { unreachable!("the node has two outputs") };
        with_element!(gate, T => {
            let inputs = [T::of(gate), T::of(up), T::of(grad)];
            let outputs = [T::of_mut(&mut dgate.data), T::of_mut(&mut dup.data)];
            cpu::gated_backward(Isa::current(), self.activation, inputs, outputs);
        });
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

#[cfg(test)]
mod tests;
