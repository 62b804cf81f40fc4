//! Attention whose scores are changed on their way to the softmax: with a softcap
//! ([Gemma 2](https://arxiv.org/abs/2408.00118)), or with sinks
//! ([gpt-oss](https://arxiv.org/abs/2508.10925)), keys without values that take a share of every softmax.
//!
//! The scores exist as a matrix here, so memory grows with the square of the length.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::{broadcast_to, concatenate, select};
use mlx_rs::{Array, Dtype};

use super::Result;
use crate::kernels::attention::{Keys, Mask};
use crate::kernels::matmul::{Transpose, matmul};
use crate::kernels::softcap::softcap;
use crate::kernels::softmax::softmax;

/// What is done to the scores.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extras<'a> {
    /// `c` of `c · tanh(scores / c)`.
    pub(super) softcap: Option<f32>,
    /// One more score per head, `[heads]`.
    pub(super) sinks: Option<&'a Array>,
}

impl Extras<'_> {
    /// Whether nothing is.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.softcap.is_none() && self.sinks.is_none()
    }
}

/// `q`: `[batch, time, heads, head_dim]`, `keys`: `[batch, room, kv_heads, head_dim]` → as `q`; `starts` as for
/// [the kernel](crate::kernels::attention).
///
/// # Errors
/// Shapes that do not fit.
pub(super) fn attention(
    q: &Array,
    keys: Keys,
    scale: f32,
    mask: Mask,
    starts: Option<&Array>,
    extras: Extras,
) -> Result<Array> {
    let &[batch, time, heads, head_dim] = q.shape() else {
        return Err(Exception::custom(format!("attention: queries of shape {:?}", q.shape())));
    };
    let (kv_heads, len) = (keys.k.dim(2), keys.len);
    let heads_first = |x: &Array| x.transpose_axes(&[0, 2, 1, 3]);
    let used = |x: &Array| heads_first(&x.try_index((.., ..len))?);
    // Queries that share keys are rows of one product.
    let rows = |x: &Array| x.reshape(&[batch, kv_heads, heads / kv_heads * time, -1]);
    let q = rows(&heads_first(&q.multiply(Array::from_f32(scale).as_dtype(q.dtype())?)?)?)?;
    let scores = matmul(&q, &used(keys.k)?, Transpose::B)?.as_dtype(Dtype::Float32)?;
    let mut scores = scores.reshape(&[batch, heads, time, len])?;
    if let Some(cap) = extras.softcap {
        scores = softcap(&scores, cap)?;
    }
    if let Some(seen) = mask.array(time, len, starts)? {
        scores = select(seen, scores, Array::from_f32(f32::NEG_INFINITY))?;
    }
    if let Some(sinks) = extras.sinks {
        let column = sinks.as_dtype(Dtype::Float32)?.reshape(&[1, heads, 1, 1])?;
        scores = concatenate(&[scores, broadcast_to(column, &[batch, heads, time, 1])?], -1)?;
    }
    let shares = softmax(&scores)?.try_index((.., .., .., ..len))?.as_dtype(q.dtype())?;
    let y = matmul(&rows(&shares)?, &used(keys.v)?, Transpose::NONE)?;
    heads_first(&y.reshape(&[batch, heads, time, head_dim])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{attention as kernel, eval};

    fn random(shape: &[i32], seed: u64) -> Array {
        mlx_rs::random::normal::<f32>(shape, 0.0, 1.0, &mlx_rs::random::key(seed).unwrap()).unwrap()
    }

    fn distance(a: &Array, b: &Array) -> f32 {
        let distance = a.subtract(b).unwrap().abs().unwrap().max(None).unwrap();
        eval([&distance]).unwrap();
        distance.as_slice::<f32>()[0]
    }

    #[test]
    fn equals_the_kernel_where_nothing_is_changed() {
        let (q, k, v) = (random(&[2, 5, 4, 8], 1), random(&[2, 9, 2, 8], 2), random(&[2, 9, 2, 8], 3));
        let keys = Keys { k: &k, v: &v, len: 7 };
        for mask in [Mask::Causal, Mask::Sliding(3)] {
            let plain = kernel::attention(&q, keys, 0.3, mask, None).unwrap();
            // Far from its bounds, a softcap changes nothing.
            let far = Extras { softcap: Some(1e4), sinks: None };
            assert!(distance(&attention(&q, keys, 0.3, mask, None, far).unwrap(), &plain) < 1e-4);
            let closed = Array::from_slice(&[f32::NEG_INFINITY; 4], &[4]);
            let closed = Extras { softcap: None, sinks: Some(&closed) };
            assert!(distance(&attention(&q, keys, 0.3, mask, None, closed).unwrap(), &plain) < 1e-5);
        }
    }

    #[test]
    fn a_sink_takes_its_share() {
        // One key with score 0 beside a sink with score 0: half of the value is left.
        let zero = Array::zeros::<f32>(&[1, 1, 1, 2]).unwrap();
        let v = Array::ones::<f32>(&[1, 1, 1, 2]).unwrap();
        let sink = Array::zeros::<f32>(&[1]).unwrap();
        let extras = Extras { softcap: None, sinks: Some(&sink) };
        let y = attention(&zero, Keys::all(&zero, &v), 1.0, Mask::Causal, None, extras).unwrap();
        assert!(distance(&y, &Array::from_f32(0.5)) < 1e-6);
    }
}
