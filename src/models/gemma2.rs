//! [Gemma 2](https://arxiv.org/abs/2408.00118): norms around every layer, softcaps, a sliding window in every other block.

use serde_json::Value;

use super::gemma::{Gemma, cap};
use super::language_model::Model;
use super::shape;
use crate::Result;
use crate::io::config;
use crate::kernels::attention::Mask;

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let json =
        &config::with_defaults(json, &[("final_logit_softcapping", 30.0), ("attn_logit_softcapping", 50.0)]);
    let gemma = Gemma::parse(json)?;
    let window = shape::window(json)?.unwrap_or(Mask::Sliding(4096));
    let masks = shape::masks(json, gemma.shape.layers, Some(window), |i| i % 2 == 0)?;
    let rope = gemma.shape.rope(json, 10_000.0)?;
    let softcap = cap(json, "attn_logit_softcapping")?;
    Ok(Box::new(gemma.decoder(json, |i| gemma.block(gemma.attention(masks[i], &rope, softcap)?))?))
}
