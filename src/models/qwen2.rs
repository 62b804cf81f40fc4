//! [Qwen2](https://arxiv.org/abs/2407.10671) and [Qwen2.5](https://arxiv.org/abs/2412.15115): Llama with
//! biases of the query, key and value projections.

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
use crate::nn::attention::Biases;
use crate::nn::{Attention, Mlp};

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
}

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let shape = Shape::parse(json, Defaults::default())?;
    let file: File = config::parse(json)?;
    let intermediate = config::size("intermediate_size", file.intermediate_size, 1 << 22)?;
    let activation = shape::activation(json, "hidden_act", Activation::Silu)?;
    let masks = qwen::masks(json, shape.layers)?;
    let rope = shape.rope(json, 10_000.0)?;
    let biases = Biases { qkv: true, output: false };
    let decoder = CausalLm::new(&shape, |i| {
        let attention = Attention::new(shape.hidden, shape.heads(masks[i], Some(rope.clone())), biases)?;
        PreNormBlock::new(&shape, attention, Mlp::new(shape.hidden, intermediate, false, activation)?)
    })?;
    Ok(Box::new(decoder))
}
