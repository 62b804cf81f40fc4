//! What the keys of `config.json` mean: which of two names wins, which keys a family reads, and what an absent or
//! `null` key stands for. The rules are those of the configuration classes of transformers 5.
//!
//! | subject | rule |
//! |---|---|
//! | rotation | `rope_scaling` unless it is `null` or empty, else `rope_parameters`, else the family's default; they are never mixed. Gemma 3 alone has one rotation per type of layer, and there `rope_scaling` changes the entry `full_attention` key by key |
//! | method | `rope_type`, else `type`, else `default` |
//! | base | `rope_theta` of the rotation, else of the file, else the family's; Gemma 3's sliding layers: `rope_local_base_freq` |
//! | rotated part of heads | `partial_rotary_factor` of the rotation, else of the file, else 1. The default rotation of all families but Phi-3 is of whole heads whatever it is, and other methods there refuse less than 1 |
//! | original length (`YaRN`, Llama 3, `LongRoPE`) | `original_max_position_embeddings` of the file (Phi-3: else 4096), else of the rotation, else `max_position_embeddings`; of Gemma 3: first that of the rotation, never of the file |
//! | dynamic scaling | relative to `max_position_embeddings`; the base of a sequence depends on its length, that of cached keys stays |
//! | `factor` | required; where it is `null` (`LongRoPE`: or absent), `YaRN` and `LongRoPE` take `max_position_embeddings` / original length |
//! | `YaRN` | `beta_fast` and `beta_slow` of `null` or 0 are the defaults; `mscale` and `mscale_all_dim` count if neither is `null` or 0; `truncate` of `null` is false, and Gemma 3 reads it beside the types of layers |
//! | size of a head | `head_dim`, else the family's default; `null` is `hidden_size` / `num_attention_heads` |
//! | key heads | `num_key_value_heads`, else the family's default; `null` is `num_attention_heads` |
//! | a flag of `null` | false |
//! | `sliding_window` | absent: the family's default; `null`: none |
//! | layers | `layer_types`, else the family's rule in [`Windows`]; families without a rule ignore both keys |
//! | softcaps | `attn_logit_softcapping` of Gemma 2 alone, `final_logit_softcapping` of both Gemmas |
//! | `epsilon` of norms | `rms_norm_eps` alone; LFM2: `norm_eps` alone |
//!
//! | family | absent `rope_theta` | absent `max_position_embeddings` | which layers slide | absent `sliding_window` |
//! |---|---|---|---|---|
//! | `gemma2` | 1e4 | 8192 | `layer_types`, else every other from the first | 4096 |
//! | `gemma3_text` | 1e6, sliding 1e4 | 131072 | `layer_types`, else all but every `sliding_window_pattern`-th (6) | 4096 |
//! | `gpt_oss` | 1.5e5 | 131072 | `layer_types`, else every other from the first | 128 |
//! | `lfm2`, `lfm2_moe` | 1e6 | 128000 | none | |
//! | `llama` | 1e4 | 2048 | none | |
//! | `mistral` | 1e4 | 131072 | `layer_types`, else all | 4096 |
//! | `mixtral` | 1e6 | 131072 | all | none |
//! | `phi3` | 1e4 | 4096 | all | none |
//! | `qwen2`, `qwen3` | 1e4 | 32768 | `layer_types`, else from `max_window_layers` (28) on; if `use_sliding_window` | 4096 |
//! | `qwen3_moe` | 1e4 | 32768 | all, if `use_sliding_window` | 4096 |
//! | `smollm3` | 2e6 | 32768 | `layer_types`, else those without rotation if `use_sliding_window` | none |
//!
//! What transformers refuses is refused, or read as its earlier versions did; what it warns about is ignored.

mod explicit;
mod head;
mod masks;
mod rope;
mod shape;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

pub(super) use explicit::explicit;
pub(super) use head::set_head;
pub(super) use masks::{Windows, layer_types, unknown_layer_type};
pub(super) use shape::{Shape, activation};

use crate::{Error, Result};

/// Defaults of absent keys, and the rules of a family. See the [module](self).
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    /// `None` for `num_attention_heads`.
    pub(super) kv_heads: Option<i64>,
    /// `None` for `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<i64>,
    /// Key and default of the epsilon of norms.
    pub(super) norm_eps: (&'static str, f32),
    /// Added to the weights of norms: Gemma stores the difference from one.
    pub(super) norm_offset: f32,
    pub(super) tied: bool,
    pub(super) max_position_embeddings: i64,
    pub(super) rope_theta: f64,
    pub(super) rope: RopeKeys,
    pub(super) windows: Windows,
}

/// How a family reads the keys of its rotation.
#[derive(Debug, Clone, Copy)]
pub(super) enum RopeKeys {
    /// One rotation, of whole heads.
    Shared,
    /// As `Shared`, with these parameters if there are none.
    SharedOr(fn() -> Map<String, Value>),
    /// One rotation, of a part of each head, with `LongRoPE` as its only method.
    Partial,
    /// A rotation for each type of layer.
    PerLayerType,
}

impl Family {
    /// Llama, from which the others differ.
    pub(super) const LLAMA: Self = Self {
        kv_heads: None,
        head_dim: None,
        norm_eps: ("rms_norm_eps", 1e-6),
        norm_offset: 0.0,
        tied: false,
        max_position_embeddings: 2048,
        rope_theta: 10_000.0,
        rope: RopeKeys::Shared,
        windows: Windows::Never,
    };
}

/// Returns the flag under `key`; `null` is false.
///
/// # Errors
/// Anything but true, false and `null`.
pub(super) fn flag(json: &Value, key: &str, default: bool) -> Result<bool> {
    match json.get(key) {
        None => Ok(default),
        Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(unexpected(key, other, "true or false")),
    }
}

/// The error for a value of the wrong type.
fn unexpected(key: &str, found: &Value, expected: &str) -> Error {
    Error::ModelLoading(format!("\"{key}\" is {found}, expected {expected}"))
}
