//! [Qwen3](https://arxiv.org/abs/2505.09388): Llama with norms of query and key heads.

use serde::Deserialize;
use serde_json::Value;

use super::block::PreNormBlock;
use super::causal_lm::CausalLm;
use super::language_model::Model;
use super::shape::{Defaults, Shape};
use super::{qwen, shape};
use crate::Result;
use crate::io::config;
use crate::kernels::activation::Activation;
use crate::kernels::attention::Mask;
use crate::nn::attention::Biases;
use crate::nn::{self, Attention, Mlp, Rope};

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
    #[serde(default)]
    attention_bias: bool,
}

/// Defaults of `config.json`.
pub(super) const DEFAULTS: Defaults =
    Defaults { kv_heads: None, head_dim: Some(128), norm_eps: 1e-6, norm_offset: 0.0, tied: false };

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let shape = Shape::parse(json, DEFAULTS)?;
    let file: File = config::parse(json)?;
    let intermediate = config::size("intermediate_size", file.intermediate_size, 1 << 22)?;
    let activation = shape::activation(json, "hidden_act", Activation::Silu)?;
    let masks = qwen::masks(json, shape.layers)?;
    let rope = shape.rope(json, 10_000.0)?;
    let decoder = CausalLm::new(&shape, |i| {
        let mlp = Mlp::new(shape.hidden, intermediate, false, activation)?;
        PreNormBlock::new(&shape, attention(&shape, masks[i], &rope, file.attention_bias)?, mlp)
    })?;
    Ok(Box::new(decoder))
}

/// Creates an attention layer with head norms.
///
/// # Errors
/// Errors from MLX.
pub(super) fn attention(shape: &Shape, mask: Mask, rope: &Rope, bias: bool) -> nn::Result<Attention> {
    let heads = shape.heads(mask, Some(rope.clone()));
    let attention = Attention::new(shape.hidden, heads, Biases { qkv: bias, output: bias })?;
    Ok(attention.with_norms(&shape.norm(shape.head_dim)?))
}
