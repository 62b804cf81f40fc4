//! Normalization.

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::module::Param;

use super::Result;
use crate::kernels::norm::{RmsNormOptions, residual_rms_norm, rms_norm};

/// Root mean square normalization over the last dimension: `x / sqrt(mean(x²) + eps) · (weight + offset)`
/// ([RMSNorm](https://arxiv.org/abs/1910.07467)).
#[derive(Debug, Clone, ModuleParameters)]
pub struct RmsNorm {
    /// `[hidden]`.
    #[param]
    pub weight: Param<Array>,
    /// `eps` and `offset`.
    pub rms: RmsNormOptions,
}

impl RmsNorm {
    /// Creates a norm with a total scale of one.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new(hidden: i32, rms: RmsNormOptions) -> Result<Self> {
        let weight = Array::full::<f32>(&[hidden], Array::from_f32(1.0 - rms.offset))?;
        Ok(Self { weight: Param::new(weight), rms })
    }

    /// `x`: `[..., hidden]` → same shape and dtype.
    ///
    /// # Errors
    /// A last dimension other than `hidden`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        rms_norm(x, &self.weight, self.rms)
    }

    /// Residual connection followed by the norm. `x` and `delta`: `[..., hidden]` → `x + delta` and its norm.
    ///
    /// # Errors
    /// Incompatible shapes.
    pub fn forward_residual(&self, x: &Array, delta: &Array) -> Result<(Array, Array)> {
        residual_rms_norm(x, delta, &self.weight, self.rms)
    }
}
