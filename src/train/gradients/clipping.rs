//! Gradient clipping.

use mlx_rs::Array;
use mlx_rs::ops::minimum;

use crate::Result;

/// Returns the factor that scales gradients of norm `norm` to a norm of at most `max_norm` ([gradient
/// clipping](https://arxiv.org/abs/1211.5063)), not evaluated; 1 if `max_norm` is 0.
///
/// # Errors
/// Errors from MLX.
pub fn clip_factor(norm: &Array, max_norm: f32) -> Result<Array> {
    if max_norm <= 0.0 {
        return Ok(Array::from_f32(1.0));
    }
    let factor = Array::from_f32(max_norm).divide(norm.add(Array::from_f32(1e-6))?)?;
    Ok(minimum(factor, Array::from_f32(1.0))?)
}
