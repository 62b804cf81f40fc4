//! [Gemma 3](https://arxiv.org/abs/2503.19786), text model: Gemma 2 with head norms instead of softcaps, and
//! sliding windows with a different rotation in five of six blocks.

use serde::Deserialize;
use serde_json::Value;

use super::gemma::Gemma;
use super::language_model::Model;
use super::shape;
use crate::io::config;
use crate::kernels::attention::Mask;
use crate::{Error, Result};

/// Keys of `config.json` beyond those of all Gemmas.
#[derive(Debug, Clone, Deserialize)]
struct File {
    #[serde(default = "default_pattern")]
    sliding_window_pattern: i64,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    #[serde(default)]
    attn_logit_softcapping: Option<f64>,
}

fn default_pattern() -> i64 {
    6
}

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let gemma = Gemma::parse(json)?;
    let file: File = config::parse(json)?;
    if let Some(cap) = file.attn_logit_softcapping {
        let message = format!("\"attn_logit_softcapping\" is {cap}, but this family has none");
        return Err(Error::ModelLoading(message));
    }
    let pattern = config::size("sliding_window_pattern", file.sliding_window_pattern, i32::MAX)? as usize;
    let window = shape::window(json)?.unwrap_or(Mask::Sliding(4096));
    let masks = shape::masks(json, gemma.shape.layers, Some(window), |i| (i + 1) % pattern != 0)?;
    // transformers 5 has one entry per layer type; before, only the global rotation could be scaled.
    let parameters = &json["rope_parameters"];
    let (global, local) = (&parameters["full_attention"], &parameters["sliding_attention"]);
    let global = if global.is_null() { &json["rope_scaling"] } else { global };
    let rope = |fields: &Value, theta: f64| gemma.shape.rope_from(json, fields, theta);
    let global = rope(global, file.rope_theta.unwrap_or(1_000_000.0))?;
    let local = rope(local, file.rope_local_base_freq.unwrap_or(10_000.0))?;
    Ok(Box::new(gemma.decoder(json, |i| {
        let rope = if masks[i] == Mask::Causal { &global } else { &local };
        let norm = gemma.shape.norm(gemma.shape.head_dim)?;
        gemma.block(gemma.attention(masks[i], rope, None)?.with_norms(&norm))
    })?))
}
