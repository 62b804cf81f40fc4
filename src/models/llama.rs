//! Llama ([1](https://arxiv.org/abs/2302.13971), [2](https://arxiv.org/abs/2307.09288),
//! [3](https://arxiv.org/abs/2407.21783)) and SmolLM2.

use serde::Deserialize;
use serde_json::Value;

use super::block::PreNormBlock;
use super::causal_lm::CausalLm;
use super::configuration::{self, Family, Shape, flag};
use super::language_model::Model;
use crate::Result;
use crate::io::config;
use crate::kernels::activation::Activation;
use crate::nn::attention::Biases;
use crate::nn::{Attention, Mlp};

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
}

/// Creates the model described by `config.json`; defaults are those of Hugging Face's Llama.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let bias = flag(json, "attention_bias", false)?;
    let mlp_bias = flag(json, "mlp_bias", false)?;
    decoder(json, &Family::LLAMA, Biases { qkv: bias, output: bias }, mlp_bias)
}

/// Creates a model of Llama's structure by the rules of `family`.
///
/// # Errors
/// As [`create`].
pub(super) fn decoder(json: &Value, family: &Family, biases: Biases, mlp_bias: bool) -> Result<Box<Model>> {
    let shape = Shape::parse(json, family)?;
    let file: File = config::parse(json)?;
    let intermediate = config::size("intermediate_size", file.intermediate_size, 1 << 22)?;
    let activation = configuration::activation(json, "hidden_act", Activation::Silu)?;
    let decoder = CausalLm::new(&shape, |i| {
        let attention = Attention::new(shape.hidden, shape.attention(i), biases)?;
        PreNormBlock::new(&shape, attention, Mlp::new(shape.hidden, intermediate, mlp_bias, activation)?)
    })?;
    Ok(Box::new(decoder))
}
