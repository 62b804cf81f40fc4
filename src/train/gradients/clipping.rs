//! Gradient clipping.

use mlx_rs::Array;
use mlx_rs::ops::minimum;

use crate::Result;

/// What gradients of norm `norm` are multiplied with so that it is at most `max_norm` (0: left alone), as
/// [gradient clipping](https://arxiv.org/abs/1211.5063) does; unevaluated.
///
/// # Errors
/// What MLX raises.
pub fn clip_factor(norm: &Array, max_norm: f32) -> Result<Array> {
    if max_norm <= 0.0 {
        return Ok(Array::from_f32(1.0));
    }
    let factor = Array::from_f32(max_norm).divide(norm.add(Array::from_f32(1e-6))?)?;
    Ok(minimum(factor, Array::from_f32(1.0))?)
}
