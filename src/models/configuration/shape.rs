//! Sizes that all architectures have.

use serde::Deserialize;
use serde_json::Value;

use super::rope::Rotations;
use super::{Family, flag, rope, unexpected};
use crate::io::config;
use crate::kernels::activation::Activation;
use crate::kernels::attention::Mask;
use crate::kernels::norm::RmsNormOptions;
use crate::nn::{self, Heads, RmsNorm, Rope};
use crate::{Error, Result};

#[derive(Debug, Clone, Deserialize)]
struct File {
    hidden_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    vocab_size: i64,
}

/// Validated sizes, masks and rotations.
#[derive(Debug, Clone)]
pub(in crate::models) struct Shape {
    pub(in crate::models) hidden: i32,
    pub(in crate::models) layers: usize,
    pub(in crate::models) heads: i32,
    pub(in crate::models) kv_heads: i32,
    pub(in crate::models) head_dim: i32,
    pub(in crate::models) vocab: i32,
    norm: RmsNormOptions,
    pub(in crate::models) tied: bool,
    /// Attention mask of each layer.
    masks: Vec<Mask>,
    rotations: Rotations,
}

impl Shape {
    /// Parses `config.json` by the rules of `family`.
    ///
    /// # Errors
    /// A key that is missing, of the wrong type or out of range.
    pub(in crate::models) fn parse(json: &Value, family: &Family) -> Result<Self> {
        let file: File = config::parse(json)?;
        if !json["per_layer_config"].is_null() {
            let message = "\"per_layer_config\" is not supported: all layers have the same sizes";
            return Err(Error::ModelLoading(message.to_owned()));
        }
        let hidden = config::size("hidden_size", file.hidden_size, 1 << 20)?;
        let layers = config::size("num_hidden_layers", file.num_hidden_layers, 1 << 12)? as usize;
        let heads = config::size("num_attention_heads", file.num_attention_heads, 1 << 14)?;
        let kv_heads = size_or(json, "num_key_value_heads", family.kv_heads, heads)?;
        let kv_heads = config::size("num_key_value_heads", kv_heads, heads)?;
        if heads % kv_heads != 0 {
            return Err(Error::ModelLoading(format!(
                "\"num_attention_heads\" ({heads}) is not a multiple of \"num_key_value_heads\" ({kv_heads})"
            )));
        }
        let head_dim = size_or(json, "head_dim", family.head_dim, hidden / heads)?;
        let head_dim = config::size("head_dim", head_dim, 1 << 14)?;
        if head_dim % 2 != 0 {
            return Err(Error::ModelLoading(format!("\"head_dim\" is {head_dim}, expected an even number")));
        }
        Ok(Self {
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab: config::size("vocab_size", file.vocab_size, 1 << 24)?,
            norm: RmsNormOptions { eps: norm_eps(json, family)?, offset: family.norm_offset },
            tied: flag(json, "tie_word_embeddings", family.tied)?,
            masks: family.windows.masks(json, layers)?,
            rotations: rope::parse(json, family, head_dim)?,
        })
    }

    /// Creates a norm over `size` elements.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(in crate::models) fn norm(&self, size: i32) -> nn::Result<RmsNorm> {
        RmsNorm::new(size, self.norm)
    }

    /// Returns the hyperparameters of attention in layer number `layer`.
    pub(in crate::models) fn attention(&self, layer: usize) -> Heads {
        let mask = self.masks[layer];
        let Rotations { full, sliding } = &self.rotations;
        let rope = sliding.as_ref().filter(|_| mask != Mask::Causal).unwrap_or(full);
        Heads::new(self.heads, self.kv_heads, self.head_dim, mask, Some(rope.clone()))
    }

    /// Attention mask of each layer.
    pub(in crate::models) fn masks(&self) -> &[Mask] {
        &self.masks
    }

    /// All rotations.
    pub(in crate::models) fn ropes(&self) -> Vec<Rope> {
        let Rotations { full, sliding } = &self.rotations;
        [Some(full), sliding.as_ref()].into_iter().flatten().cloned().collect()
    }
}

/// Returns the number under `key`: `default` if it is absent, `derived` if that is `None` or the key is `null`.
fn size_or(json: &Value, key: &str, default: Option<i64>, derived: i32) -> Result<i64> {
    match json.get(key) {
        None => Ok(default.unwrap_or(derived.into())),
        Some(Value::Null) => Ok(derived.into()),
        Some(value) => value.as_i64().ok_or_else(|| unexpected(key, value, "a whole number")),
    }
}

fn norm_eps(json: &Value, family: &Family) -> Result<f32> {
    let (key, default) = family.norm_eps;
    match json.get(key) {
        None => Ok(default),
        Some(value) => match value.as_f64() {
            Some(eps) if eps >= 0.0 => Ok(eps as f32),
            _ => Err(unexpected(key, value, "0 or more")),
        },
    }
}

/// Returns the activation named by `key`.
///
/// # Errors
/// An unknown activation.
pub(in crate::models) fn activation(json: &Value, key: &str, default: Activation) -> Result<Activation> {
    match &json[key] {
        Value::Null => Ok(default),
        Value::String(name) if name == "silu" => Ok(Activation::Silu),
        Value::String(name) if name == "gelu" => Ok(Activation::Gelu),
        Value::String(name) if name == "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        other => Err(Error::ModelLoading(format!(
            "\"{key}\" is {other}, expected \"silu\", \"gelu\" or \"gelu_pytorch_tanh\""
        ))),
    }
}
