//! `c · tanh(x / c)`: keeps scores and logits within `±c` ([Gemma 2](https://arxiv.org/abs/2408.00118)). MLX's own
//! operations on every device.

use mlx_rs::Array;
use mlx_rs::ops::tanh;

use crate::error::MlxResult;

/// `x`: any shape → same shape and dtype.
///
/// # Errors
/// What MLX raises.
pub fn softcap(x: &Array, cap: f32) -> MlxResult<Array> {
    let cap = Array::from_f32(cap).as_dtype(x.dtype())?;
    tanh(x.divide(&cap)?)?.multiply(cap)
}
