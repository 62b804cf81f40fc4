//! Language models inside larger ones, such as the text tower of a vision–language model: their part of
//! `config.json`, and the names of their tensors.
//!
//! The other towers are not read. A tensor is left out only if its name starts with that of another tower, so that
//! nothing of the language model is lost unnoticed.

use serde_json::{Map, Value, json};

/// `model_type`s of larger models, each with the `model_type` of its language model and `tie_word_embeddings`, which
/// apply if `config.json` does not say.
const WRAPPERS: [(&str, &str, bool); 10] = [
    ("gemma3", "gemma3_text", true),
    ("idefics3", "llama", false),
    ("internvl", "qwen2", true),
    ("lfm2_vl", "lfm2", true),
    ("llava", "llama", false),
    ("llava_next", "llama", false),
    ("llava_onevision", "qwen2", false),
    ("mistral3", "mistral", true),
    ("smolvlm", "llama", false),
    ("vipllava", "llama", false),
];

/// Sizes that configurations of larger models may omit, as in transformers: `hidden_size`, `intermediate_size`,
/// `num_hidden_layers`, `num_attention_heads`, `num_key_value_heads` and `vocab_size`.
const SIZES: [(&str, [i64; 6]); 6] = [
    ("gemma3_text", [2304, 9216, 26, 8, 4, 262_208]),
    ("lfm2", [2560, 12288, 32, 32, 8, 65536]),
    ("llama", [4096, 11008, 32, 32, 32, 32000]),
    ("mistral", [4096, 14336, 32, 32, 8, 32000]),
    ("qwen2", [4096, 22016, 32, 32, 32, 151_936]),
    ("qwen3", [4096, 22016, 32, 32, 32, 151_936]),
];

const SIZE_KEYS: [&str; 6] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
];

/// Keys of the larger model that describe its language model too.
const SHARED: [&str; 8] = [
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "quantization",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
];

/// Names of the text tower.
const TOWERS: [&str; 2] = ["language_model.", "text_model."];

/// Names of what else there is in a larger model.
const OTHERS: [&str; 6] = [
    "connector.",
    "image_newline",
    "multi_modal_projector.",
    "vision_embed_tokens.",
    "vision_model.",
    "vision_tower.",
];

/// Returns the configuration of the language model in the larger model described by `config`; `None` if that is no
/// larger model.
#[must_use]
pub fn language_model(config: &Value) -> Option<Value> {
    let kind = config["model_type"].as_str()?;
    let (_, default_type, default_tied) = *WRAPPERS.iter().find(|(name, ..)| *name == kind)?;
    let mut text = config["text_config"].as_object()?.clone();
    let model_type = text.entry("model_type").or_insert_with(|| default_type.into()).clone();
    if let Some((_, sizes)) = SIZES.iter().find(|(name, _)| model_type == *name) {
        fill_sizes(&mut text, *sizes);
    }
    for key in SHARED {
        if let Some(value) = config.get(key).filter(|value| !value.is_null()) {
            text.insert(key.to_owned(), value.clone());
        }
    }
    for key in ["quantization", "quantization_config"] {
        if let Some(layers) = text.get_mut(key).and_then(Value::as_object_mut) {
            let rename = |(path, format): (String, Value)| Some((language_model_name(&path)?, format));
            *layers = std::mem::take(layers).into_iter().filter_map(rename).collect();
        }
    }
    let is_true = |value: Option<&Value>| value.and_then(Value::as_bool);
    let own = is_true(config.get("tie_embedding")).or(is_true(config.get("tie_word_embeddings")));
    let inner = text.shift_remove("tie_embedding").or(text.get("tie_word_embeddings").cloned());
    let tied = own.unwrap_or(default_tied) || is_true(inner.as_ref()) == Some(true);
    text.insert("tie_word_embeddings".to_owned(), tied.into());
    let is_causal = |name: &Value| name.as_str().is_some_and(|name| name.ends_with("ForCausalLM"));
    if !text.get("architectures").and_then(|names| names.get(0)).is_some_and(is_causal) {
        text.insert("architectures".to_owned(), json!([class_name(model_type.as_str()?)]));
    }
    Some(Value::Object(text))
}

/// Adds `sizes` for keys that are absent. Without a number of key and value heads, there is one for each head.
fn fill_sizes(text: &mut Map<String, Value>, sizes: [i64; 6]) {
    let has_heads = text.contains_key("num_attention_heads");
    for (key, size) in SIZE_KEYS.iter().zip(sizes) {
        let follows = *key == "num_key_value_heads" && sizes[3] == sizes[4] && has_heads;
        if !follows {
            text.entry(*key).or_insert_with(|| size.into());
        }
    }
}

/// The class of transformers for a `model_type`: `gemma3_text` → `Gemma3ForCausalLM`.
fn class_name(model_type: &str) -> String {
    let parts = model_type.trim_end_matches("_text").split('_');
    let capitalized = |part: &str| part[..1].to_uppercase() + &part[1..];
    parts.filter(|part| part.is_ascii() && !part.is_empty()).map(capitalized).collect::<String>()
        + "ForCausalLM"
}

/// Returns the name in a language model of the tensor or layer `name` of a larger model; `None` if it belongs to
/// another tower.
#[must_use]
pub fn language_model_name(name: &str) -> Option<String> {
    let inner = name.strip_prefix("model.").unwrap_or(name);
    if OTHERS.iter().any(|other| inner.starts_with(other)) {
        return None;
    }
    let Some(own) = TOWERS.iter().find_map(|tower| inner.strip_prefix(tower)) else {
        return Some(name.to_owned());
    };
    let is_whole = own.starts_with("model.") || own == "lm_head" || own.starts_with("lm_head.");
    Some(if is_whole { own.to_owned() } else { format!("model.{own}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_generations_of_transformers() {
        for (theirs, ours) in [
            ("model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("language_model.model.embed_tokens.weight", "model.embed_tokens.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("language_model.norm.weight", "model.norm.weight"),
            ("model.text_model.norm.weight", "model.norm.weight"),
            ("lm_head.weight", "lm_head.weight"),
            ("audio_tower.weight", "audio_tower.weight"),
        ] {
            assert_eq!(language_model_name(theirs).as_deref(), Some(ours));
        }
        for other in
            ["vision_tower.x.weight", "model.multi_modal_projector.norm.weight", "model.image_newline"]
        {
            assert_eq!(language_model_name(other), None);
        }
    }

    #[test]
    fn absent_keys_are_those_of_transformers() {
        // As published: Gemma 3 and LLaVA 1.5 omit sizes.
        let text = language_model(&json!({
            "model_type": "gemma3", "eos_token_id": [1, 106], "torch_dtype": "bfloat16",
            "text_config": {"hidden_size": 2560, "model_type": "gemma3_text", "num_hidden_layers": 34},
        }))
        .unwrap();
        assert_eq!((&text["hidden_size"], &text["num_attention_heads"]), (&2560.into(), &8.into()));
        assert_eq!((&text["vocab_size"], &text["num_key_value_heads"]), (&262_208.into(), &4.into()));
        assert_eq!(text["tie_word_embeddings"], true);
        assert_eq!(text["architectures"], json!(["Gemma3ForCausalLM"]));
        assert_eq!((&text["eos_token_id"], &text["torch_dtype"]), (&json!([1, 106]), &json!("bfloat16")));
        let text = language_model(&json!({
            "model_type": "llava", "tie_word_embeddings": false,
            "text_config": {"model_type": "llama", "num_attention_heads": 40, "vocab_size": 32064},
        }))
        .unwrap();
        assert!(text.get("num_key_value_heads").is_none(), "as many as heads");
        assert_eq!((&text["vocab_size"], &text["tie_word_embeddings"]), (&32064.into(), &false.into()));
    }

    #[test]
    fn layers_with_a_format_of_their_own_are_renamed() {
        let text = language_model(&json!({
            "model_type": "gemma3", "text_config": {},
            "quantization": {"bits": 4, "language_model.lm_head": {"bits": 8}, "vision_tower.x": {"bits": 2}},
        }));
        assert_eq!(text.unwrap()["quantization"], json!({"bits": 4, "lm_head": {"bits": 8}}));
    }

    #[test]
    fn other_models_are_no_wrappers() {
        assert_eq!(language_model(&json!({"model_type": "llama"})), None);
        assert_eq!(language_model(&json!({"model_type": "paligemma", "text_config": {}})), None);
        assert_eq!(class_name("gpt_oss"), "GptOssForCausalLM");
    }
}
