//! What a configuration says of the output head.

use serde_json::Value;

/// Says in `config` that the model has an output head, which is the embedding's if it is `tied`.
pub(crate) fn set_head(config: &mut Value, tied: bool) {
    // LFM2 has had both names.
    let keys = ["tie_word_embeddings", "tie_embedding"];
    let known: Vec<&str> = keys.into_iter().filter(|key| !config[*key].is_null()).collect();
    for key in known {
        config[key] = tied.into();
    }
    if !tied {
        config[keys[0]] = false.into();
    }
    // A model without head has been stored, and has one now.
    for name in config["architectures"].as_array_mut().into_iter().flatten() {
        let base = name.as_str().and_then(|name| name.strip_suffix("Model"));
        if let Some(base) = base {
            *name = format!("{}ForCausalLM", base.strip_suffix("Text").unwrap_or(base)).into();
        }
    }
}
