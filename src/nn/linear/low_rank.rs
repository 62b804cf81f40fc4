//! The low-rank update of a linear layer.

use std::borrow::Cow;

use mlx_rs::error::Exception;
use mlx_rs::ops::concatenate;
use mlx_rs::{Array, Dtype, random};

use super::Linear;
use super::dora::RowNorms;
use crate::kernels::linear::{self as kernel, Weight};
use crate::kernels::matmul::{Transpose, matmul};
use crate::nn::Result;

/// Settings and state of a low-rank update.
#[derive(Debug, Clone, Default)]
pub struct LowRank {
    /// `s`, usually `alpha / rank`.
    pub scale: f32,
    /// Dropout probability of the inputs of `A`.
    pub dropout: f32,
    /// PRNG key of the current step's dropout mask; `None` outside training.
    pub dropout_key: Option<Array>,
    /// `A` and `B` of a second, frozen update, without dropout.
    pub fixed: Option<[Array; 2]>,
    /// Cached row norms of a layer with a magnitude.
    pub norms: RowNorms,
}

/// Matrices of a low-rank update.
pub(super) struct Matrices<'a> {
    /// `[in, rank]`.
    pub a: Cow<'a, Array>,
    /// `[rank, out]`.
    pub b: Cow<'a, Array>,
}

impl Matrices<'_> {
    /// Returns `s·(x·A)·B` as an operand of the kernel.
    pub(super) fn operand(&self, scale: f32) -> kernel::LowRank<'_> {
        kernel::LowRank { a: &self.a, b: &self.b, scale }
    }

    /// Returns `s·(x·A)·B`, in the dtype of `A` and `x`.
    pub(super) fn product(&self, x: &Array, scale: f32) -> Result<Array> {
        let low = matmul(&matmul(x, &self.a, Transpose::NONE)?, &self.b, Transpose::NONE)?;
        low.multiply(Array::from_f32(scale).as_dtype(low.dtype())?)
    }

    /// Concatenates two updates into one.
    fn beside(&self, [a, b]: &[Array; 2]) -> Result<Matrices<'static>> {
        let joined = |own: &Array, other: &Array, axis: i32| {
            concatenate(&[own, &other.as_dtype(own.dtype())?], axis).map(Cow::Owned)
        };
        Ok(Matrices { a: joined(&self.a, a, 1)?, b: joined(&self.b, b, 0)? })
    }
}

impl Linear {
    /// Returns `A`, and `B` scaled by the singular values if there are any.
    pub(super) fn trained(&self) -> Result<Option<Matrices<'_>>> {
        let (Some(a), Some(b)) = (&*self.lora_a, &*self.lora_b) else { return Ok(None) };
        let b = match &*self.lora_e {
            Some(e) => Cow::Owned(e.expand_dims(1)?.multiply(b)?),
            None => Cow::Borrowed(b),
        };
        Ok(Some(Matrices { a: Cow::Borrowed(a), b }))
    }

    /// Returns all updates that are applied without dropout, as one.
    pub(super) fn undropped(&self) -> Result<Option<Matrices<'_>>> {
        let trained = if self.low_rank.dropout_key.is_none() { self.trained()? } else { None };
        match (trained, &self.low_rank.fixed) {
            (Some(trained), Some(fixed)) => trained.beside(fixed).map(Some),
            (None, Some([a, b])) => Ok(Some(Matrices { a: Cow::Borrowed(a), b: Cow::Borrowed(b) })),
            (trained, None) => Ok(trained),
        }
    }

    /// Replaces all updates by an equivalent plain one, `lora_a` and `lora_b`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn merge_parts(&mut self) -> Result<()> {
        self.low_rank.dropout_key = None;
        let Some(Matrices { a, b }) = self.undropped()? else { return Ok(()) };
        let (a, b) = (a.into_owned(), b.into_owned());
        (*self.lora_a, *self.lora_b, *self.lora_e) = (Some(a), Some(b), None);
        self.low_rank.fixed = None;
        Ok(())
    }

    /// Returns `W + s·(A·B)ᵀ` in the dtype of `W`, which must be dense; `None` without an update.
    ///
    /// # Errors
    /// A quantized weight, dropout or a magnitude, which a weight cannot express.
    pub fn merged(&self) -> Result<Option<Array>> {
        if self.m.is_some() || self.low_rank.dropout_key.is_some() {
            return Err(Exception::custom("an update with dropout or magnitude cannot be merged"));
        }
        let Some(Matrices { a, b }) = self.undropped()? else { return Ok(None) };
        let weight = match self.matrix() {
            Weight::Dense(weight) => Cow::Borrowed(weight),
            Weight::Sparse(matrix) if matrix.format().is_none() => {
                Cow::Owned(matrix.to_dense(matrix.dtype())?)
            }
            Weight::Packed(_) | Weight::Sparse(_) => {
                return Err(Exception::custom("a low-rank update cannot be merged into a quantized weight"));
            }
        };
        let [a, b] = [a.as_dtype(Dtype::Float32)?, b.as_dtype(Dtype::Float32)?];
        let update = matmul(&b, &a, Transpose { a: true, b: true })?;
        let update = update.multiply(Array::from_f32(self.low_rank.scale))?;
        weight.as_dtype(Dtype::Float32)?.add(update)?.as_dtype(weight.dtype()).map(Some)
    }

    /// Removes all low-rank updates.
    pub fn remove_update(&mut self) {
        (*self.lora_a, *self.lora_b, *self.lora_e, *self.m) = (None, None, None, None);
        self.low_rank = LowRank::default();
    }

    /// Returns `x` with the dropout of the current step.
    pub(super) fn dropped(&self, x: &Array, key: &Array) -> Result<Array> {
        let dtype = (*self.lora_a).as_ref().map_or(x.dtype(), Array::dtype);
        dropout(&x.as_dtype(dtype)?, self.low_rank.dropout, key)
    }
}

/// Zeroes each element with probability `p` and scales the others by `1 / (1 - p)`.
fn dropout(x: &Array, p: f32, key: &Array) -> Result<Array> {
    let keep = random::bernoulli(&Array::from_f32(1.0 - p), x.shape(), key)?;
    let scale = Array::from_f32(1.0 / (1.0 - p));
    x.multiply(keep.as_dtype(Dtype::Float32)?.multiply(scale)?.as_dtype(x.dtype())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    fn values(x: &Array) -> Vec<f32> {
        eval([x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    #[test]
    fn dropout_keeps_the_mean() {
        let x = Array::ones::<f32>(&[10_000]).unwrap();
        let y = values(&dropout(&x, 0.25, &random::key(3).unwrap()).unwrap());
        let mean = y.iter().sum::<f32>() / 10_000.0;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert!(y.iter().all(|&y| y == 0.0 || (y - 4.0 / 3.0).abs() < 1e-6));
    }

    /// From two inputs to two outputs, `W = 0`, with one of each slot: `y = 2·(E·B·A + B₀·A₀)·x`.
    fn layer() -> Linear {
        let array = |values: &[f32], shape: &[i32]| Array::from_slice(values, shape);
        let mut layer = Linear::new(2, 2, false).unwrap();
        *layer.lora_a = Some(array(&[1.0, 2.0], &[2, 1]));
        *layer.lora_b = Some(array(&[3.0, 4.0], &[1, 2]));
        *layer.lora_e = Some(array(&[0.5], &[1]));
        layer.low_rank.scale = 2.0;
        layer.low_rank.fixed = Some([array(&[1.0, 1.0], &[2, 1]), array(&[-1.0, 0.0], &[1, 2])]);
        layer
    }

    #[test]
    fn parts_add_up_also_when_merged() {
        let mut layer = layer();
        let x = Array::from_slice(&[1.0_f32, 1.0], &[1, 2]);
        assert_eq!(values(&layer.forward(&x).unwrap()), [5.0, 12.0]);
        layer.merge_parts().unwrap();
        assert!(layer.lora_e.is_none() && layer.low_rank.fixed.is_none());
        assert_eq!(layer.lora_a.value.as_ref().unwrap().shape(), [2, 2]);
        assert_eq!(values(&layer.forward(&x).unwrap()), [5.0, 12.0]);
    }

    #[test]
    fn a_merged_weight_computes_what_the_parts_did() {
        let mut layer = layer();
        let x = Array::from_slice(&[1.0_f32, 1.0], &[1, 2]);
        *layer.weight = layer.merged().unwrap().unwrap();
        layer.remove_update();
        assert_eq!(values(&layer.forward(&x).unwrap()), [5.0, 12.0]);
        assert!(layer.merged().unwrap().is_none());
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "small whole numbers are exact")]
    fn the_fixed_part_drops_nothing() {
        let mut layer = layer();
        layer.low_rank.dropout = 0.5;
        layer.low_rank.dropout_key = Some(random::key(1).unwrap());
        let x = Array::ones::<f32>(&[64, 2]).unwrap();
        for row in values(&layer.forward(&x).unwrap()).chunks_exact(2) {
            // 3 or 4 times a low-rank output that is 0, 2, 4 or 6; the fixed part always takes 4 off.
            let low = row[1] / 4.0;
            assert!([0.0, 2.0, 4.0, 6.0].contains(&low) && row[0] == 3.0 * low - 4.0, "{row:?}");
        }
    }
}
