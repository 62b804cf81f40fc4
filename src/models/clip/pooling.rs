//! Attention pooling of `SigLIP`: a learned query attends to all positions
//! ([Set Transformer](https://arxiv.org/abs/1810.00825)).

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::module::Param;
use mlx_rs::ops::broadcast_to;

use super::config::TowerConfig;
use super::encoder::{Attention, Mlp};
use crate::kernels::attention::Mask;
use crate::nn::layer::{Linears, prefixed};
use crate::nn::{LayerNorm, Result};

#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct AttentionPooling {
    /// The query, `[1, 1, hidden]`.
    #[param]
    probe: Param<Array>,
    #[param]
    attention: Attention,
    #[param]
    layernorm: LayerNorm,
    #[param]
    mlp: Mlp,
}

impl AttentionPooling {
    pub(super) fn new(config: &TowerConfig) -> Result<Self> {
        Ok(Self {
            probe: Param::new(Array::zeros::<f32>(&[1, 1, config.hidden])?),
            attention: Attention::new(config.hidden, config.heads, Mask::Full)?,
            layernorm: LayerNorm::new(config.hidden, config.norm_eps)?,
            mlp: Mlp::new(config)?,
        })
    }

    /// `x`: `[batch, length, hidden]` → `[batch, hidden]`.
    pub(super) fn forward(&self, x: &Array) -> Result<Array> {
        let (batch, hidden) = (x.dim(0), x.dim(2));
        let probe = broadcast_to(self.probe.as_dtype(x.dtype())?, &[batch, 1, hidden])?;
        let pooled = self.attention.forward_across(&probe, x)?;
        let y = pooled.add(self.mlp.forward(&self.layernorm.forward(&pooled)?)?)?;
        y.reshape(&[batch, hidden])
    }

    /// All linear layers.
    pub(super) fn all_linears(&mut self) -> Linears<'_> {
        let mut linears = prefixed("attention", self.attention.linears());
        linears.extend(prefixed("mlp", self.mlp.linears()));
        linears
    }

    /// Adaptable layers; other programs store the projections of attention as one matrix, which cannot be one.
    pub(super) fn linears(&mut self) -> Linears<'_> {
        prefixed("mlp", self.mlp.linears())
    }
}
