//! The seam between the loop and an optimizer.

use std::fmt::Debug;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

/// What changes from update to update, `[]` in f32 each, so that one graph serves all updates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalars<'a> {
    /// What gradients are multiplied with, to clip or unscale them.
    pub(super) grad_scale: &'a Array,
    /// Of [`UpdateRule::scalars`].
    pub(super) scalars: &'a [Array],
}

impl<'a> Scalars<'a> {
    /// The first `N` scalars.
    pub(super) fn first<const N: usize>(self) -> Result<[&'a Array; N], Exception> {
        let scalars = self.scalars.first_chunk::<N>().map(<[Array; N]>::each_ref);
        scalars.ok_or_else(|| Exception::custom("an update without its numbers"))
    }
}

/// A tensor an optimizer remembers of one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) name: &'static str,
    pub(super) shape: Vec<i32>,
}

/// One parameter before an update.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) parameter: &'a Array,
    /// Its gradient, not yet multiplied with [`Scalars::grad_scale`].
    pub(super) grad: &'a Array,
    /// What is remembered, in the order of [`UpdateRule::slots`]; `None` before the first update.
    pub(super) state: Option<Vec<&'a Array>>,
}

/// One parameter after an update.
#[derive(Debug)]
pub(super) struct Updated {
    /// In the dtype it had.
    pub(super) parameter: Array,
    /// In the order of [`UpdateRule::slots`].
    pub(super) state: Vec<Array>,
}

/// What an optimizer is.
pub(super) trait UpdateRule: Debug {
    /// What is remembered of a parameter.
    fn slots(&self, name: &str, shape: &[i32]) -> Vec<Slot>;

    /// What the host computes for the `count`-th update (from 1) at the learning rate `lr`.
    fn scalars(&self, lr: f64, count: u64) -> Vec<f64>;

    /// An update of each of `tensors`, unevaluated.
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn update(&self, scalars: Scalars, tensors: &[Tensor]) -> Result<Vec<Updated>, Exception>;
}

/// One slot of the shape of the parameter.
pub(super) fn slot_like(name: &'static str, shape: &[i32]) -> Slot {
    Slot { name, shape: shape.to_vec() }
}

impl Tensor<'_> {
    /// Its value in f32.
    pub(super) fn value(&self) -> Result<Array, Exception> {
        self.parameter.as_dtype(Dtype::Float32)
    }

    /// Its gradient in f32, scaled.
    pub(super) fn gradient(&self, scalars: Scalars) -> Result<Array, Exception> {
        self.grad.as_dtype(Dtype::Float32)?.multiply(scalars.grad_scale)
    }

    /// The only slot.
    pub(super) fn only_slot(&self) -> Option<&Array> {
        self.state.as_ref()?.first().copied()
    }

    /// `value`, in f32, as the new one.
    pub(super) fn updated(&self, value: &Array, state: Vec<Array>) -> Result<Updated, Exception> {
        Ok(Updated { parameter: value.as_dtype(self.parameter.dtype())?, state })
    }
}

/// `factor · x` in f32.
pub(super) fn scaled(x: &Array, factor: f64) -> Result<Array, Exception> {
    x.multiply(Array::from_f32(factor as f32))
}

/// `share · old + (1 - share) · new`, where nothing old is 0.
pub(super) fn moving_average(old: Option<&Array>, new: &Array, share: f64) -> Result<Array, Exception> {
    weighted_sum(old, new, [share, 1.0 - share].map(|share| Array::from_f32(share as f32)).each_ref())
}

/// `a · old + b · new`, where nothing old is 0.
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
