//! Softcap `c · tanh(x / c)`, which bounds scores and logits to `±c` ([Gemma 2](https://arxiv.org/abs/2408.00118)).
//! Composed of MLX operations on every device.

use mlx_rs::Array;
use mlx_rs::ops::tanh;

use crate::error::MlxResult;

/// Applies the softcap elementwise, in the shape and dtype of `x`.
///
/// # Errors
/// An exception raised by MLX.
pub fn softcap(x: &Array, cap: f32) -> MlxResult<Array> {
    let cap = Array::from_f32(cap).as_dtype(x.dtype())?;
    tanh(x.divide(&cap)?)?.multiply(cap)
}
