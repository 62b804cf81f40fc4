//! [Mistral](https://arxiv.org/abs/2310.06825): Llama without biases, with a sliding window in all layers.

use serde_json::Value;

use super::configuration::{Family, Windows};
use super::language_model::Model;
use super::llama;
use crate::Result;
use crate::nn::attention::Biases;

pub(super) const FAMILY: Family = Family {
    kv_heads: Some(8),
    max_position_embeddings: 131_072,
    windows: Windows::AlwaysByType(4096),
    ..Family::LLAMA
};

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    llama::decoder(json, &FAMILY, Biases::default(), false)
}
