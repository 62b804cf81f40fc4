//! [Gemma 3](https://arxiv.org/abs/2503.19786), text model: Gemma 2 with head norms instead of softcaps, and
//! sliding windows with a different rotation in five of six blocks.

use serde_json::Value;

use super::configuration::{Family, RopeKeys, Windows};
use super::gemma::{self, Gemma};
use super::language_model::Model;
use crate::Result;

pub(super) const FAMILY: Family = Family {
    max_position_embeddings: 131_072,
    rope_theta: 1_000_000.0,
    rope: RopeKeys::PerLayerType,
    windows: Windows::Pattern(4096),
    ..gemma::FAMILY
};

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let gemma = Gemma::parse(json, &FAMILY)?;
    Ok(Box::new(gemma.decoder(json, |i| {
        let norm = gemma.shape.norm(gemma.shape.head_dim)?;
        gemma.block(gemma.attention(i, None)?.with_norms(&norm))
    })?))
}
