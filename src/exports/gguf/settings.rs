//! Settings of a model that llama.cpp takes for granted, or computes in another way.

use serde_json::Value;

use super::parameters::Parameter;
use crate::io::gguf::architecture::Architecture;
use crate::{Error, Result};

/// Architectures in which llama.cpp lets layers slide.
const SLIDING: [&str; 3] = ["gemma2", "gemma3", "phi3"];

/// Layers without rotation in llama.cpp's `smollm3`: every so many.
const NO_ROPE: usize = 4;

/// Refuses settings that a file of `architecture` cannot express; `config` has them written out.
///
/// # Errors
/// The setting at fault.
pub(super) fn check(architecture: &Architecture, config: &Value) -> Result<()> {
    let fixed = |key: &str, expected: &str| {
        Err(Error::Config(format!(
            "\"{key}\" is {}, but llama.cpp has {expected} for the architecture {}: GGUF cannot express this model",
            config[key], architecture.name
        )))
    };
    let is_gemma = architecture.name.starts_with("gemma");
    let (activation, usual) =
        if is_gemma { ("hidden_activation", "gelu_pytorch_tanh") } else { ("hidden_act", "silu") };
    if config[activation].as_str().is_some_and(|name| name != usual) {
        return fixed(activation, usual);
    }
    if architecture.name == "gemma2" && config["tie_word_embeddings"] == false {
        return fixed("tie_word_embeddings", "a tied head");
    }
    let layers = config["num_hidden_layers"].as_u64().unwrap_or_default();
    if is_gemma {
        let scalar = config["query_pre_attn_scalar"].as_f64().unwrap_or(256.0);
        let count = |key: &str| config[key].as_f64().unwrap_or(1.0);
        // Alone the largest model of a family divides by something else than the size of heads.
        let largest = if architecture.name == "gemma2" { 46 } else { 62 };
        let usual = if layers == largest {
            count("hidden_size") / count("num_attention_heads")
        } else {
            count("head_dim")
        };
        if (scalar - usual).abs() > 1e-6 {
            return fixed("query_pre_attn_scalar", &usual.to_string());
        }
    }
    if architecture.name == "smollm3" {
        let is_usual = |(layer, flag): (usize, &Value)| (flag == 0) == ((layer + 1) % NO_ROPE == 0);
        let flags = config["no_rope_layers"].as_array();
        if !flags.into_iter().flatten().enumerate().all(is_usual) {
            return fixed("no_rope_layers", "a rotation in all but every fourth layer");
        }
        if flags.is_none()
            && config["no_rope_layer_interval"].as_u64().is_some_and(|every| every != NO_ROPE as u64)
        {
            return fixed("no_rope_layer_interval", "4");
        }
    }
    Ok(())
}

/// Says what llama.cpp will do otherwise.
pub(super) fn remark(architecture: &Architecture, config: &Value) -> Option<String> {
    let window = config["sliding_window"].as_u64().filter(|_| !SLIDING.contains(&architecture.name))?;
    (window < config["max_position_embeddings"].as_u64().unwrap_or(u64::MAX)).then(|| {
        format!(
            "llama.cpp knows no sliding windows of the architecture {}: texts of more than {window} tokens are continued \
             otherwise there",
            architecture.name
        )
    })
}

/// Replaces the size of the feed-forward layers, which some configurations state before it is rounded.
pub(super) fn complete(config: &mut Value, parameters: &[Parameter]) {
    let down = ["mlp.down_proj.weight", "feed_forward.w2.weight"];
    let found = parameters.iter().find(|parameter| down.iter().any(|name| parameter.name.ends_with(name)));
    if let Some([_, columns]) = found.map(|parameter| parameter.shape.as_slice()) {
        config["intermediate_size"] = (*columns as u64).into();
    }
}
