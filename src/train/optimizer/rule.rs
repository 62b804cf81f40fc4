//! The interface of update rules, and helpers for them.

use std::fmt::Debug;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

/// Scalars in float32 that change from update to update, so that one graph serves all updates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalars<'a> {
    /// Factor that clips or unscales gradients.
    pub(super) grad_scale: &'a Array,
    /// Values of [`UpdateRule::scalars`].
    pub(super) scalars: &'a [Array],
}

impl<'a> Scalars<'a> {
    /// Returns the first `N` scalars.
    pub(super) fn first<const N: usize>(self) -> Result<[&'a Array; N], Exception> {
        let scalars = self.scalars.first_chunk::<N>().map(<[Array; N]>::each_ref);
        scalars.ok_or_else(|| Exception::custom("an update without its numbers"))
    }
}

/// A state tensor of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) name: &'static str,
    pub(super) shape: Vec<i32>,
}

/// A parameter before an update.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) parameter: &'a Array,
    /// Gradient, not yet multiplied by [`Scalars::grad_scale`].
    pub(super) grad: &'a Array,
    /// State tensors in the order of [`UpdateRule::slots`]; `None` before the first update.
    pub(super) state: Option<Vec<&'a Array>>,
}

/// A parameter after an update.
#[derive(Debug)]
pub(super) struct Updated {
    /// New value, in the dtype of the old one.
    pub(super) parameter: Array,
    /// New state tensors in the order of [`UpdateRule::slots`].
    pub(super) state: Vec<Array>,
}

/// An update rule.
pub(super) trait UpdateRule: Debug {
    /// State tensors of a parameter.
    fn slots(&self, name: &str, shape: &[i32]) -> Vec<Slot>;

    /// Scalars of the `count`-th update (1-based) at learning rate `lr`.
    fn scalars(&self, lr: f64, count: u64) -> Vec<f64>;

    /// Computes the update of each of `tensors`, not evaluated.
    ///
    /// # Errors
    /// Shapes that do not match.
    fn update(&self, scalars: Scalars, tensors: &[Tensor]) -> Result<Vec<Updated>, Exception>;
}

/// A state tensor of the shape of the parameter.
pub(super) fn slot_like(name: &'static str, shape: &[i32]) -> Slot {
    Slot { name, shape: shape.to_vec() }
}

impl Tensor<'_> {
    /// Value in float32.
    pub(super) fn value(&self) -> Result<Array, Exception> {
        self.parameter.as_dtype(Dtype::Float32)
    }

    /// Scaled gradient in float32.
    pub(super) fn gradient(&self, scalars: Scalars) -> Result<Array, Exception> {
        self.grad.as_dtype(Dtype::Float32)?.multiply(scalars.grad_scale)
    }

    /// The only state tensor.
    pub(super) fn only_slot(&self) -> Option<&Array> {
        self.state.as_ref()?.first().copied()
    }

    /// Casts `value` to the dtype of the parameter.
    pub(super) fn updated(&self, value: &Array, state: Vec<Array>) -> Result<Updated, Exception> {
        Ok(Updated { parameter: value.as_dtype(self.parameter.dtype())?, state })
    }
}

/// `factor · x` in float32.
pub(super) fn scaled(x: &Array, factor: f64) -> Result<Array, Exception> {
    x.multiply(Array::from_f32(factor as f32))
}

/// `share · old + (1 - share) · new`; a missing `old` is 0.
pub(super) fn moving_average(old: Option<&Array>, new: &Array, share: f64) -> Result<Array, Exception> {
    weighted_sum(old, new, [share, 1.0 - share].map(|share| Array::from_f32(share as f32)).each_ref())
}

/// `a · old + b · new`; a missing `old` is 0.
pub(super) fn weighted_sum(
    old: Option<&Array>,
    new: &Array,
    [a, b]: [&Array; 2],
) -> Result<Array, Exception> {
    let new = new.multiply(b)?;
    match old {
        Some(old) => old.multiply(a)?.add(&new),
        None => Ok(new),
    }
}
