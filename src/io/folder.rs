//! Model folders in Hugging Face format.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{atomic, config, weights};
use crate::nn::Network;
use crate::{Error, Result, rng};

/// Files of a model folder other than its weights.
const DESCRIPTION: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
];

/// Keys of `config.json` that describe quantized weights.
const QUANTIZATION: [&str; 2] = ["quantization", "quantization_config"];

/// Saves `model` to the folder `target`, together with the configuration, tokenizer and chat template of the
/// folder `source`. The saved `config.json` states the dtype of the weights, and has no quantization settings
/// if no weight is quantized.
///
/// # Errors
/// A folder that cannot be read or written.
pub fn save(source: &Path, target: &Path, model: &dyn Network) -> Result<()> {
    let parameters = model.parameters().flatten();
    let is_packed = parameters.keys().any(|name| name.ends_with(".scales"));
    fs::create_dir_all(target).map_err(Error::io("create", target))?;
    for name in DESCRIPTION {
        let path = source.join(name);
        if path.exists() {
            atomic::write(&target.join(name), |temporary| fs::copy(&path, temporary).map(|_| ()))?;
        }
    }
    let mut config = config::read(source)?;
    // transformers 5 writes "dtype", older versions "torch_dtype".
    let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[key] = format!("{:?}", model.dtype()).to_lowercase().into();
    if parameters.contains_key("lm_head.weight") {
        let shape = |name: &str| parameters.get(name).map(|x| x.shape());
        let is_packed_alike = ["weight", "scales"]
            .iter()
            .all(|leaf| shape(&format!("lm_head.{leaf}")) == shape(&format!("model.embed_tokens.{leaf}")));
        untie(&mut config, is_packed_alike);
    }
    if !is_packed && let Some(fields) = config.as_object_mut() {
        for key in QUANTIZATION {
            fields.shift_remove(key);
        }
    }
    atomic::write_text(&target.join("config.json"), &format!("{config:#}\n"))?;
    weights::save(target, model, None)
}

/// Says in `config` that the output head is not tied to the embeddings; `is_packed_alike` tells whether it is in their
/// format.
fn untie(config: &mut Value, is_packed_alike: bool) {
    // LFM2 has the second key too.
    for key in ["tie_word_embeddings", "tie_embedding"] {
        if config.get(key).is_some() || key == "tie_word_embeddings" {
            config[key] = false.into();
        }
    }
    for key in QUANTIZATION.iter().filter(|_| is_packed_alike) {
        let Some(fields) = config.get_mut(key).and_then(Value::as_object_mut) else { continue };
        if let (Some(format), None) = (fields.get("model.embed_tokens").cloned(), fields.get("lm_head")) {
            fields.insert("lm_head".to_owned(), format);
        }
    }
}

/// Returns a hash of a model folder: of its `config.json` and of the names and sizes of its weight files. The
/// weights themselves are not read.
///
/// # Errors
/// A folder that is not a model.
pub fn fingerprint(folder: &Path) -> Result<String> {
    let mut text = config::read(folder)?.to_string().into_bytes();
    for path in weights::files(folder)? {
        let size = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        text.extend(path.file_name().unwrap_or_default().as_encoded_bytes());
        text.extend(size.to_le_bytes());
    }
    Ok(format!("{:016x}", rng::digest(text.into_iter().map(u64::from))))
}
