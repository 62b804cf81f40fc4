//! Layer normalization.

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::module::Param;

use super::Result;
use crate::kernels::norm::layer_norm;

/// Normalization over the last dimension to zero mean and unit variance:
/// `(x - mean) / √(variance + eps) · weight + bias` ([LayerNorm](https://arxiv.org/abs/1607.06450)).
#[derive(Debug, Clone, ModuleParameters)]
pub struct LayerNorm {
    /// `[hidden]`.
    #[param]
    pub weight: Param<Array>,
    /// `[hidden]`.
    #[param]
    pub bias: Param<Array>,
    /// Term added to the variance for numerical stability.
    pub eps: f32,
}

impl LayerNorm {
    /// Creates a norm with a scale of one and a bias of zero.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new(hidden: i32, eps: f32) -> Result<Self> {
        Ok(Self {
            weight: Param::new(Array::ones::<f32>(&[hidden])?),
            bias: Param::new(Array::zeros::<f32>(&[hidden])?),
            eps,
        })
    }

    /// `x`: `[..., hidden]` → same shape and dtype.
    ///
    /// # Errors
    /// A last dimension other than `hidden`.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    #[test]
    fn rows_have_the_mean_and_the_scale_of_the_parameters() {
        let mut norm = LayerNorm::new(4, 0.0).unwrap();
        *norm.weight = Array::from_slice(&[1.0_f32, 1.0, 2.0, 1.0], &[4]);
        *norm.bias = Array::from_slice(&[0.0_f32, 0.5, 0.0, 0.0], &[4]);
        let y = norm.forward(&Array::from_slice(&[1.0_f32, 3.0, 1.0, 3.0], &[1, 4])).unwrap();
        eval([&y]).unwrap();
        assert_eq!(y.as_slice::<f32>(), [-1.0, 1.5, -2.0, 1.0]);
    }
}
