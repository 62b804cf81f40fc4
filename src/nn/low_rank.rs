//! How the low-rank part of a layer enters.

use mlx_rs::{Array, Dtype, random};

use super::Result;
use super::dora::Norms;
use crate::kernels::linear as kernel;
use crate::kernels::matmul::{Transpose, matmul};

/// Settings of the low-rank part.
#[derive(Debug, Clone, Default)]
pub struct LowRank {
    /// `s`, usually `alpha / rank`.
    pub scale: f32,
    /// Share of `x` that is zeroed before `A`; the rest is scaled up.
    pub dropout: f32,
    /// PRNG key of this step's dropout mask; `None` outside training.
    pub dropout_key: Option<Array>,
    /// Lengths of rows that stay the same, for a layer with a magnitude.
    pub norms: Norms,
}

impl LowRank {
    /// `s·(x·A)·B` as the kernel takes it.
    pub(super) fn operand<'a>(&self, a: &'a Array, b: &'a Array) -> kernel::LowRank<'a> {
        kernel::LowRank { a, b, scale: self.scale }
    }

    /// `s·(x·A)·B`, in the dtype of `a`, which `x` has too.
    pub(super) fn product(&self, x: &Array, a: &Array, b: &Array) -> Result<Array> {
        let low = matmul(&matmul(x, a, Transpose::NONE)?, b, Transpose::NONE)?;
        low.multiply(Array::from_f32(self.scale).as_dtype(low.dtype())?)
    }

    /// `x` with the dropout of `key`.
    pub(super) fn dropped(&self, x: &Array, key: &Array) -> Result<Array> {
        dropout(x, self.dropout, key)
    }
}

/// Zeroes each element with probability `p` and divides the others by `1 - p`.
fn dropout(x: &Array, p: f32, key: &Array) -> Result<Array> {
    let keep = random::bernoulli(&Array::from_f32(1.0 - p), x.shape(), key)?;
    let scale = Array::from_f32(1.0 / (1.0 - p));
    x.multiply(keep.as_dtype(Dtype::Float32)?.multiply(scale)?.as_dtype(x.dtype())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    #[test]
    fn dropout_keeps_the_mean() {
        let x = Array::ones::<f32>(&[10_000]).unwrap();
        let y = dropout(&x, 0.25, &random::key(3).unwrap()).unwrap();
        eval([&y]).unwrap();
        let y = y.as_slice::<f32>();
        let mean = y.iter().sum::<f32>() / 10_000.0;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert!(y.iter().all(|&y| y == 0.0 || (y - 4.0 / 3.0).abs() < 1e-6));
    }
}
