//! Scaled dot-product attention with grouped queries ([GQA](https://arxiv.org/abs/2305.13245)).
//!
//! `softmax(scale · Q·Kᵀ + mask)·V`
//!
//! | operand | shape |
//! |---|---|
//! | `q` | `[batch, heads, time, head_dim]` |
//! | `k`, `v` | `[batch, kv_heads, keys, head_dim]`, `kv_heads` divides `heads` |
//! | result | as `q` |
//!
//! The last query stands at the position of the last key, so a cache needs no offset.

use mlx_rs::error::Exception;
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::{select, softmax_axis};
use mlx_rs::{Array, Dtype};

use super::device::on_cpu;
use super::matmul::{Transpose, matmul};
use super::op::MlxResult;

/// Which keys a query may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// Itself and everything before.
    Causal,
    /// Itself and the `n - 1` positions before ([sliding window](https://arxiv.org/abs/2310.06825)).
    Sliding(i32),
}

impl Mask {
    /// `true` where query (row) may see key (column): `[time, keys]`; `None` when all may.
    fn array(self, time: i32, keys: i32) -> MlxResult<Option<Array>> {
        let window = match self {
            Self::Causal => keys,
            Self::Sliding(window) => window,
        };
        if time == 1 && window >= keys {
            return Ok(None);
        }
        let rows = Array::arange::<_, i32>(keys - time, keys, None)?.expand_dims(1)?;
        let distance = rows.subtract(Array::arange::<_, i32>(None, keys, None)?)?;
        let seen = distance.ge(Array::from_int(0))?;
        if window >= keys {
            return Ok(Some(seen));
        }
        Ok(Some(seen.logical_and(distance.lt(Array::from_int(window))?)?))
    }
}

/// See the [module](self) for shapes.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(q: &Array, k: &Array, v: &Array, scale: f32, mask: Mask) -> MlxResult<Array> {
    if on_cpu() { composed(q, k, v, scale, mask) } else { reference(q, k, v, scale, mask) }
}

/// MLX's own kernel.
///
/// # Errors
/// Shapes that do not fit.
pub fn reference(q: &Array, k: &Array, v: &Array, scale: f32, mask: Mask) -> MlxResult<Array> {
    let (time, keys) = (q.dim(-2), k.dim(-2));
    if mask == Mask::Causal && time > 1 {
        return scaled_dot_product_attention(q, k, v, scale, ScaledDotProductAttentionMask::Causal, None);
    }
    let seen = mask.array(time, keys)?;
    let mask = seen.as_ref().map(ScaledDotProductAttentionMask::Array);
    scaled_dot_product_attention(q, k, v, scale, mask, None)
}

fn composed(q: &Array, k: &Array, v: &Array, scale: f32, mask: Mask) -> MlxResult<Array> {
    let &[batch, heads, time, head_dim] = q.shape() else {
        return Err(Exception::custom(format!("attention: queries have shape {:?}, not 4-D", q.shape())));
    };
    let (kv_heads, keys) = (k.dim(1), k.dim(2));
    // The queries of a group share their keys: they are just more rows of one product.
    let grouped = [batch, kv_heads, heads / kv_heads * time, head_dim];
    let q = q.multiply(Array::from_f32(scale).as_dtype(q.dtype())?)?.reshape(&grouped)?;
    let mut scores = matmul(&q, k, Transpose::B)?.as_dtype(Dtype::Float32)?;
    if let Some(seen) = mask.array(time, keys)? {
        let shape = scores.shape().to_vec();
        scores = scores.reshape(&[batch, heads, time, keys])?;
        scores = select(seen, scores, Array::from_f32(f32::NEG_INFINITY))?.reshape(&shape)?;
    }
    let weights = softmax_axis(scores, -1, None)?.as_dtype(v.dtype())?;
    matmul(&weights, v, Transpose::NONE)?.reshape(&[batch, heads, time, head_dim])
}

#[cfg(test)]
mod tests {
    use mlx_rs::random;

    use super::*;
    use crate::kernels::eval;

    fn draw(shape: &[i32], seed: u64) -> Array {
        random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
    }

    #[test]
    fn composition_equals_mlx() {
        for (time, keys) in [(6, 6), (1, 9), (3, 9), (1, 1)] {
            for mask in [Mask::Causal, Mask::Sliding(4)] {
                let q = draw(&[2, 6, time, 8], 1);
                let (k, v) = (draw(&[2, 2, keys, 8], 2), draw(&[2, 2, keys, 8], 3));
                let ours = composed(&q, &k, &v, 0.3, mask).unwrap();
                let difference = ours.subtract(reference(&q, &k, &v, 0.3, mask).unwrap()).unwrap();
                let worst = difference.abs().unwrap().max(None).unwrap();
                eval([&worst]).unwrap();
                assert!(worst.item_exact::<f32>() < 1e-5, "{time} {keys} {mask:?}");
            }
        }
    }

    #[test]
    fn sliding_mask_counts_the_query_itself() {
        let seen = Mask::Sliding(2).array(3, 3).unwrap().unwrap();
        eval([&seen]).unwrap();
        let expected = [true, false, false, true, true, false, false, true, true];
        assert_eq!(seen.as_slice::<bool>(), expected);
    }
}
