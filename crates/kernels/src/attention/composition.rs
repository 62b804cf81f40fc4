//! Reference implementation: MLX's fused kernel or, with a softcap, a composition that materializes the score matrix.

use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::{broadcast_to, concatenate, select};
use mlx_rs::{Array, Dtype};

use super::{KeyValues, Mask, Scoring};
use crate::error::MlxResult;
use crate::matmul::{Transpose, matmul};
use crate::softcap::softcap;
use crate::softmax::softmax;

/// Reference implementation of [`attention`](super::attention) by MLX.
///
/// # Errors
/// Incompatible shapes.
pub fn reference(q: &Array, keys: KeyValues, scoring: Scoring, starts: Option<&Array>) -> MlxResult<Array> {
    if scoring.softcap.is_some() {
        return composed(q, keys, scoring, starts);
    }
    let Scoring { scale, mask, sinks, .. } = scoring;
    let sinks = sinks.map(|sinks| sinks.as_dtype(q.dtype())).transpose()?;
    let (time, q, [k, v]) = (q.dim(1), heads_first(q)?, used(keys)?);
    let result = if mask == Mask::Causal && time > 1 && starts.is_none() {
        let causal = ScaledDotProductAttentionMask::Causal;
        scaled_dot_product_attention(&q, &k, &v, scale, causal, sinks.as_ref())
    } else {
        let seen = mask.array(time, keys.len, starts)?;
        let mask = seen.as_ref().map(ScaledDotProductAttentionMask::Array);
        scaled_dot_product_attention(&q, &k, &v, scale, mask, sinks.as_ref())
    };
    heads_first(&result?)
}

/// Composition with a score matrix, whose memory is quadratic in the sequence length.
pub(super) fn composed(
    q: &Array,
    keys: KeyValues,
    scoring: Scoring,
    starts: Option<&Array>,
) -> MlxResult<Array> {
    let Scoring { scale, mask, softcap: cap, sinks } = scoring;
    let (batch, time, heads, head_dim) = (q.dim(0), q.dim(1), q.dim(2), q.dim(3));
    let ([k, v], kv_heads) = (used(keys)?, keys.k.dim(2));
    // Queries that share keys are rows of one product.
    let rows = |x: &Array| x.reshape(&[batch, kv_heads, heads / kv_heads * time, -1]);
    let q = rows(&heads_first(&q.multiply(Array::from_f32(scale).as_dtype(q.dtype())?)?)?)?;
    let scores = matmul(&q, &k, Transpose::B)?.as_dtype(Dtype::Float32)?;
    let mut scores = scores.reshape(&[batch, heads, time, keys.len])?;
    if let Some(cap) = cap {
        scores = softcap(&scores, cap)?;
    }
    if let Some(seen) = mask.array(time, keys.len, starts)? {
        scores = select(seen, scores, Array::from_f32(f32::NEG_INFINITY))?;
    }
    if let Some(sinks) = sinks {
        let column = sinks.as_dtype(Dtype::Float32)?.reshape(&[1, heads, 1, 1])?;
        scores = concatenate(&[scores, broadcast_to(column, &[batch, heads, time, 1])?], -1)?;
    }
    let shares = softmax(&scores)?.try_index((.., .., .., ..keys.len))?.as_dtype(q.dtype())?;
    let y = matmul(&rows(&shares)?, &v, Transpose::NONE)?;
    heads_first(&y.reshape(&[batch, heads, time, head_dim])?)
}

fn heads_first(x: &Array) -> MlxResult<Array> {
    x.transpose_axes(&[0, 2, 1, 3])
}

/// Keys and values in use, heads first.
fn used(keys: KeyValues) -> MlxResult<[Array; 2]> {
    let used = |x: &Array| {
        if x.dim(1) == keys.len { heads_first(x) } else { heads_first(&x.try_index((.., ..keys.len))?) }
    };
    Ok([used(keys.k)?, used(keys.v)?])
}
