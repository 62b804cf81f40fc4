//! Fused [AdamW](https://arxiv.org/abs/1711.05101) update of many tensors: decoupled weight decay, bias-corrected moments.
//!
//! ```text
//! g ← g·grad_scale
//! m ← β₁m + (1-β₁)g        v ← β₂v + (1-β₂)g²
//! p ← p·(1 - lr·λ) - lr · m/(1-β₁ᵗ) / (√(v/(1-β₂ᵗ)) + ε)
//! ```
//!
//! | operand | dtype |
//! |---|---|
//! | parameter `p`, gradient `g` | any floating-point dtype; the update is computed in f32 |
//! | moments `m`, `v` | f32 |

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::error::MlxResult;
use crate::mlx::apply::{apply, apply_many};
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut, Slice, SliceMut};

mod cpu;

/// Hyperparameters of `AdamW`.
#[derive(Debug, Clone, Copy)]
pub struct Hyperparameters {
    /// Decay rate of the first moment, `β₁`.
    pub beta1: f64,
    /// Decay rate of the second moment, `β₂`.
    pub beta2: f64,
    /// Term added to the denominator for numerical stability, `ε`.
    pub eps: f64,
    /// Weight decay coefficient, `λ`.
    pub weight_decay: f64,
}

impl Hyperparameters {
    /// Factors of update `t = update` (from 1) at the learning rate `lr`: `1/√(1-β₂ᵗ)`, `lr/(1-β₁ᵗ)` and `1 - lr·λ`.
    ///
    /// Computed in f64, since powers near one lose most digits in f32.
    #[must_use]
    pub fn factors(&self, lr: f64, update: u64) -> [f64; 3] {
        let exponent = i32::try_from(update).unwrap_or(i32::MAX);
        let correction = |beta: f64| 1.0 - beta.powi(exponent);
        let root_scale = correction(self.beta2).sqrt().recip();
        [root_scale, lr / correction(self.beta1), 1.0 - lr * self.weight_decay]
    }
}

/// Scalars of one update: f32 arrays of shape `[]`, so that a compiled graph can be reused for all updates.
#[derive(Debug, Clone, Copy)]
pub struct Scalars<'a> {
    /// Factor of all gradients, for gradient clipping.
    pub grad_scale: &'a Array,
    /// Values of [`Hyperparameters::factors`].
    pub factors: [&'a Array; 3],
}

/// State of one parameter before an update; all arrays have the same shape.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Parameter.
    pub parameter: &'a Array,
    /// Gradient of the parameter.
    pub grad: &'a Array,
    /// First and second moment, f32; `None` (zeros) before the first update.
    pub moments: Option<[&'a Array; 2]>,
}

/// State of one parameter after an update.
#[derive(Debug, Clone)]
pub struct Updated {
    /// Parameter, in its original dtype.
    pub parameter: Array,
    /// First moment, f32.
    pub first: Array,
    /// Second moment, f32.
    pub second: Array,
}

/// Performs one `AdamW` update of all `tensors`. See the [module](self) for the formula.
///
/// # Errors
/// Arrays of a tensor with different shapes; scalars that are not f32 of shape `[]`.
pub fn adamw(
    hyperparameters: &Hyperparameters,
    scalars: Scalars,
    tensors: &[Tensor],
) -> MlxResult<Vec<Updated>> {
    let float = |x: &Array| matches!(x.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    let fits = |tensor: &Tensor| {
        let f32 = |moments: [&Array; 2]| moments.iter().all(|x| x.dtype() == Dtype::Float32);
        float(tensor.parameter) && float(tensor.grad) && tensor.moments.is_none_or(f32)
    };
    let Scalars { grad_scale, factors: [root_scale, step_size, decay_factor] } = scalars;
    let numbers = [grad_scale, root_scale, step_size, decay_factor];
    if let Some(array) = numbers.into_iter().find(|x| x.ndim() != 0 || x.dtype() != Dtype::Float32) {
        let (shape, dtype) = (array.shape(), array.dtype());
        return Err(Exception::custom(format!("adamw: {shape:?} of {dtype:?} in the place of a number")));
    }
    tensors.iter().try_for_each(check)?;
    if tensors.is_empty() || !on_cpu() || !tensors.iter().all(fits) {
        return reference(hyperparameters, scalars, tensors);
    }
    let (mut inputs, mut outputs) = (numbers.to_vec(), Vec::new());
    for &Tensor { parameter, grad, moments } in tensors {
        inputs.extend([parameter, grad]);
        inputs.extend(moments.into_iter().flatten());
        let moment = (parameter.shape(), Dtype::Float32);
        outputs.extend([(parameter.shape(), parameter.dtype()), moment, moment]);
    }
    let has_moments = tensors.iter().map(|tensor| tensor.moments.is_some()).collect();
    let mut arrays =
        apply_many(AdamW { hyperparameters: *hyperparameters, has_moments }, &inputs, &outputs)?.into_iter();
    let updated = std::iter::from_fn(|| {
        Some(Updated { parameter: arrays.next()?, first: arrays.next()?, second: arrays.next()? })
    });
    Ok(updated.collect())
}

/// Reference implementation composed of MLX operations.
///
/// # Errors
/// Incompatible shapes.
pub fn reference(
    hyperparameters: &Hyperparameters,
    scalars: Scalars,
    tensors: &[Tensor],
) -> MlxResult<Vec<Updated>> {
    let coefficients = cpu::MomentCoefficients::of(hyperparameters);
    let Scalars { grad_scale, factors: [root_scale, step_size, decay_factor] } = scalars;
    let scalar = Array::from_f32;
    let average = |old: Option<&Array>, new: &Array, [beta, share]: [f32; 2]| {
        let new = new.multiply(scalar(share))?;
        old.map_or(Ok(new.clone()), |old| old.multiply(scalar(beta))?.add(&new))
    };
    let update = |&Tensor { parameter, grad, moments }: &Tensor| -> MlxResult<Updated> {
        let grad = grad.as_dtype(Dtype::Float32)?.multiply(grad_scale)?;
        let first = average(moments.map(|[first, _]| first), &grad, coefficients.first)?;
        let second = average(moments.map(|[_, second]| second), &grad.square()?, coefficients.second)?;
        let root = second.sqrt()?.multiply(root_scale)?.add(scalar(coefficients.eps))?;
        let value = parameter
            .as_dtype(Dtype::Float32)?
            .multiply(decay_factor)?
            .subtract(first.divide(root)?.multiply(step_size)?)?;
        Ok(Updated { parameter: value.as_dtype(parameter.dtype())?, first, second })
    };
    tensors.iter().map(update).collect()
}

fn check(tensor: &Tensor) -> MlxResult<()> {
    let &Tensor { parameter, grad, moments } = tensor;
    let mut parts = [grad].into_iter().chain(moments.into_iter().flatten());
    match parts.find(|part| part.shape() != parameter.shape()) {
        None => Ok(()),
        Some(part) => {
            let (parameter, part) = (parameter.shape(), part.shape());
            Err(Exception::custom(format!("adamw: shapes {parameter:?} and {part:?} differ")))
        }
    }
}

/// Computes the squared L2 norm over all elements of `arrays`, `[]` in f32.
///
/// # Errors
/// An exception raised by MLX.
pub fn squared_norm(arrays: &[&Array]) -> MlxResult<Array> {
    let float = |x: &&Array| matches!(x.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if arrays.is_empty() || !on_cpu() || !arrays.iter().all(float) {
        return squared_norm_reference(arrays);
    }
    apply(SquaredNorm, arrays, &[], Dtype::Float32)
}

/// Reference implementation of [`squared_norm`] composed of MLX operations.
///
/// # Errors
/// An exception raised by MLX.
pub fn squared_norm_reference(arrays: &[&Array]) -> MlxResult<Array> {
    arrays.iter().try_fold(Array::from_f32(0.0), |sum, array| {
        sum.add(array.as_dtype(Dtype::Float32)?.square()?.sum(None)?)
    })
}

/// Inputs the four [`Scalars`], then parameter, gradient and, where the tensor has them, moments of each tensor;
/// outputs new parameter and moments of each.
struct AdamW {
    hyperparameters: Hyperparameters,
    has_moments: Vec<bool>,
}

impl HostOp for AdamW {
    const NAME: &'static CStr = c"EatAdamW";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let mut inputs = inputs.iter();
        let mut next = || inputs.next().map(|input| input.data);
        let [grad_scale, root_scale, step_size, decay_factor] = [(); 4].map(|()| match next() {
            Some(Slice::F32([number])) => *number,
            _ => f32::NAN,
        });
        let factors = cpu::Factors {
            coefficients: cpu::MomentCoefficients::of(&self.hyperparameters),
            grad_scale,
            root_scale,
            step_size,
            decay_factor,
        };
        let mut chunks = Vec::new();
        for (outputs, &has_moments) in outputs.chunks_exact_mut(3).zip(&self.has_moments) {
            let (Some(parameter), Some(grad)) = (next(), next()) else { return };
            let moments = if has_moments { next().zip(next()) } else { None };
            if let [updated, first, second] = outputs {
                let updated = [&mut updated.data, &mut first.data, &mut second.data];
                cpu::push_chunks(&mut chunks, parameter, grad, moments, updated);
            }
        }
        cpu::update(Isa::current(), &factors, chunks);
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

struct SquaredNorm;

impl HostOp for SquaredNorm {
    const NAME: &'static CStr = c"EatSquaredNorm";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let arrays: Vec<_> = inputs.iter().map(|input| input.data).collect();
        if let SliceMut::F32([out]) = &mut outputs[0].data {
            *out = cpu::squared_norm(Isa::current(), &arrays) as f32;
        }
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

#[cfg(test)]
mod tests;
