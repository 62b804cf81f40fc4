//! [Gemma 2](https://arxiv.org/abs/2408.00118): norms around every layer, softcaps, a sliding window in every other block.

use serde_json::Value;

use super::gemma::{FAMILY, Gemma, cap};
use super::language_model::Model;
use crate::Result;
use crate::io::config;

/// `json` with the softcaps that are usual.
pub(super) fn with_softcaps(json: &Value) -> Value {
    config::with_defaults(json, &[("final_logit_softcapping", 30.0), ("attn_logit_softcapping", 50.0)])
}

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let json = &with_softcaps(json);
    let gemma = Gemma::parse(json, &FAMILY)?;
    let softcap = cap(json, "attn_logit_softcapping")?;
    Ok(Box::new(gemma.decoder(json, |i| gemma.block(gemma.attention(i, softcap)?))?))
}
