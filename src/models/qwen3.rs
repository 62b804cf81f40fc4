//! [Qwen3](https://arxiv.org/abs/2505.09388): Llama with norms of query and key heads.

use serde::Deserialize;
use serde_json::Value;

use super::block::PreNormBlock;
use super::causal_lm::CausalLm;
use super::configuration::{self, Family, Shape, Windows, flag};
use super::language_model::Model;
use crate::Result;
use crate::io::config;
use crate::kernels::activation::Activation;
use crate::nn::attention::Biases;
use crate::nn::{self, Attention, Mlp};

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
}

pub(super) const FAMILY: Family = Family {
    kv_heads: Some(32),
    head_dim: Some(128),
    max_position_embeddings: 32_768,
    windows: Windows::FromLayer(4096),
    ..Family::LLAMA
};

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let shape = Shape::parse(json, &FAMILY)?;
    let file: File = config::parse(json)?;
    let intermediate = config::size("intermediate_size", file.intermediate_size, 1 << 22)?;
    let activation = configuration::activation(json, "hidden_act", Activation::Silu)?;
    let bias = flag(json, "attention_bias", false)?;
    let decoder = CausalLm::new(&shape, |i| {
        let mlp = Mlp::new(shape.hidden, intermediate, false, activation)?;
        PreNormBlock::new(&shape, attention(&shape, i, bias)?, mlp)
    })?;
    Ok(Box::new(decoder))
}

/// Creates the attention of layer number `layer`, with head norms.
///
/// # Errors
/// Errors from MLX.
pub(super) fn attention(shape: &Shape, layer: usize, bias: bool) -> nn::Result<Attention> {
    let biases = Biases { qkv: bias, output: bias };
    let attention = Attention::new(shape.hidden, shape.attention(layer), biases)?;
    Ok(attention.with_norms(&shape.norm(shape.head_dim)?))
}
