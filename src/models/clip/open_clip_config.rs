//! `open_clip_config.json`, as the `config.json` that Hugging Face would have, and the other way round.

use std::path::Path;

use serde_json::{Value, json};

use super::config::{ModelConfig, TowerConfig};
use super::open_clip::CONFIG;
use crate::kernels::activation::Activation;
use crate::{Error, Result, files};

/// Reads `open_clip_config.json` as the `config.json` that Hugging Face would have.
///
/// # Errors
/// A file that cannot be read; an architecture that is not supported, by key.
pub(super) fn read(folder: &Path) -> Result<Value> {
    let path = folder.join(CONFIG);
    let broken = |why: String| Error::ModelLoading(format!("{}: {why}", path.display()));
    let text = files::read_to_string(&path, files::MAX_JSON).map_err(|error| broken(error.to_string()))?;
    let json: Value =
        serde_json::from_str(&text).map_err(|error| broken(format!("not valid JSON: {error}")))?;
    convert_config(&json["model_cfg"]).map_err(|error| broken(error.to_string()))
}

/// `model_cfg` as a `config.json`.
fn convert_config(model: &Value) -> Result<Value> {
    let (vision, text) = (&model["vision_cfg"], &model["text_cfg"]);
    // What only other architectures have.
    for (part, json, keys) in [
        ("vision_cfg", vision, &["timm_model_name", "attentional_pool", "no_ln_pre", "ls_init_value"][..]),
        ("text_cfg", text, &["hf_model_name", "embed_cls", "no_causal_mask", "ls_init_value", "proj_bias"]),
    ] {
        for key in keys {
            if !matches!(json[*key], Value::Null | Value::Bool(false)) {
                return Err(Error::ModelLoading(format!(
                    "\"{key}\" of {part} is {}, which is not supported; load the checkpoint in Hugging Face's format, if \
                     there is one",
                    json[*key]
                )));
            }
        }
    }
    let number = |json: &Value, key: &str, default: i64| json[key].as_i64().unwrap_or(default);
    let (image_width, text_width) = (number(vision, "width", 768), number(text, "width", 512));
    let head_width = number(vision, "head_width", 64);
    if head_width < 1 {
        return Err(Error::ModelLoading(format!("\"head_width\" is {head_width}, expected 1 or more")));
    }
    let inner = |json: &Value, width: i64| (width as f64 * json["mlp_ratio"].as_f64().unwrap_or(4.0)) as i64;
    let Some(layers) = vision["layers"].as_i64() else {
        return Err(Error::ModelLoading(format!(
            "\"layers\" of vision_cfg is {}, expected a number: only vision transformers are supported",
            vision["layers"]
        )));
    };
    let activation = if model["quick_gelu"] == true { "quick_gelu" } else { "gelu" };
    Ok(json!({
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": model["embed_dim"],
        "text_config": {
            "hidden_size": text_width,
            "intermediate_size": inner(text, text_width),
            "num_hidden_layers": number(text, "layers", 12),
            "num_attention_heads": number(text, "heads", 8),
            "max_position_embeddings": number(text, "context_length", 77),
            "vocab_size": number(text, "vocab_size", 49408),
            "hidden_act": activation,
            "layer_norm_eps": 1e-5,
            // The end of a text is its token of the highest id.
            "eos_token_id": 2,
        },
        "vision_config": {
            "hidden_size": image_width,
            "intermediate_size": inner(vision, image_width),
            "num_hidden_layers": layers,
            "num_attention_heads": image_width / head_width,
            "image_size": vision.get("image_size").unwrap_or(&json!(224)),
            "patch_size": vision.get("patch_size").unwrap_or(&json!(16)),
            "hidden_act": activation,
            "layer_norm_eps": 1e-5,
        },
    }))
}

/// `config`, a `config.json` of CLIP, as `model_cfg`.
///
/// # Errors
/// What `open_clip` has no settings for, by key.
pub fn describe(config: &Value) -> Result<Value> {
    let refuse = |why: String| Err(Error::Config(format!("open_clip has no settings for this model: {why}")));
    if config["model_type"] != "clip" {
        return refuse(format!("model_type is {}, expected \"clip\"", config["model_type"]));
    }
    let parsed = ModelConfig::parse(config)?;
    let (text, vision) = (&parsed.text, &parsed.vision);
    let quick_gelu = match [text.tower.activation, vision.tower.activation] {
        [Activation::QuickGelu, Activation::QuickGelu] => true,
        [Activation::Gelu, Activation::Gelu] => false,
        other => {
            return refuse(format!("hidden_act of both towers is {other:?}, expected quick_gelu or gelu"));
        }
    };
    // It pools the token of the highest id.
    if text.eos != 2 && text.eos != i64::from(text.vocab) - 1 {
        return refuse(format!("eos_token_id is {}, expected the last token, {}", text.eos, text.vocab - 1));
    }
    for tower in [&text.tower, &vision.tower] {
        if (tower.norm_eps - 1e-5).abs() > 1e-9 {
            return refuse(format!("layer_norm_eps is {}, expected 1e-5", tower.norm_eps));
        }
    }
    let ratio = |tower: &TowerConfig| f64::from(tower.intermediate) / f64::from(tower.hidden);
    Ok(json!({
        "embed_dim": text.projection,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.tower.layers,
            "width": vision.tower.hidden,
            "head_width": vision.tower.hidden / vision.tower.heads,
            "mlp_ratio": ratio(&vision.tower),
            "patch_size": vision.patch_size,
        },
        "text_cfg": {
            "context_length": text.context,
            "vocab_size": text.vocab,
            "width": text.tower.hidden,
            "heads": text.tower.heads,
            "layers": text.tower.layers,
            "mlp_ratio": ratio(&text.tower),
        },
    }))
}
