//! Llama ([1](https://arxiv.org/abs/2302.13971), [2](https://arxiv.org/abs/2307.09288),
//! [3](https://arxiv.org/abs/2407.21783)), [Mistral](https://arxiv.org/abs/2310.06825) and SmolLM2.

use serde::Deserialize;
use serde_json::Value;

use super::block::PreNormBlock;
use super::causal_lm::CausalLm;
use super::language_model::Model;
use super::shape;
use super::shape::{Defaults, Shape};
use crate::Result;
use crate::io::config;
use crate::kernels::activation::Activation;
use crate::kernels::attention::Mask;
use crate::nn::attention::Biases;
use crate::nn::{Attention, Mlp};

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

/// Creates the model described by `config.json`; defaults are those of Hugging Face's Llama.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let shape = Shape::parse(json, Defaults::default())?;
    let file: File = config::parse(json)?;
    let intermediate = config::size("intermediate_size", file.intermediate_size, 1 << 22)?;
    let activation = shape::activation(json, "hidden_act", Activation::Silu)?;
    let mask = shape::window(json)?.unwrap_or(Mask::Causal);
    let rope = shape.rope(json, 10_000.0)?;
    let biases = Biases { qkv: file.attention_bias, output: file.attention_bias };
    let decoder = CausalLm::new(&shape, |_| {
        let attention = Attention::new(shape.hidden, shape.heads(mask, Some(rope.clone())), biases)?;
        let mlp = Mlp::new(shape.hidden, intermediate, file.mlp_bias, activation)?;
        PreNormBlock::new(&shape, attention, mlp)
    })?;
    Ok(Box::new(decoder.with_stored_periods(rope.unscaled_periods())))
}
