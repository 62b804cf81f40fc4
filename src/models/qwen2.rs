//! [Qwen2](https://arxiv.org/abs/2407.10671) and [Qwen2.5](https://arxiv.org/abs/2412.15115): Llama with
//! biases of the query, key and value projections.

use serde_json::Value;

use super::configuration::{Family, Windows};
use super::language_model::Model;
use super::llama;
use crate::Result;
use crate::nn::attention::Biases;

pub(super) const FAMILY: Family = Family {
    kv_heads: Some(32),
    max_position_embeddings: 32_768,
    windows: Windows::FromLayer(4096),
    ..Family::LLAMA
};

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    llama::decoder(json, &FAMILY, Biases { qkv: true, output: false }, false)
}
