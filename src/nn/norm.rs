//! Normalisation.

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::fast::rms_norm;
use mlx_rs::module::Param;

use super::Result;

/// `x / sqrt(mean(x²) + eps) · weight` over the last dimension ([RMSNorm](https://arxiv.org/abs/1910.07467)).
#[derive(Debug, Clone, ModuleParameters)]
pub struct RmsNorm {
    /// `[hidden]`
    #[param]
    pub weight: Param<Array>,
    /// Keeps the root away from zero.
    pub eps: f32,
}

impl RmsNorm {
    /// Weights of one.
    ///
    /// # Errors
    /// What MLX raises.
    pub fn new(hidden: i32, eps: f32) -> Result<Self> {
        Ok(Self { weight: Param::new(Array::ones::<f32>(&[hidden])?), eps })
    }

    /// `x`: `[..., hidden]` → same shape.
    ///
    /// # Errors
    /// A last dimension other than `hidden`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        rms_norm(x, Some(&self.weight), self.eps)
    }
}
