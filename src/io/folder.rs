//! Model folders in Hugging Face format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

use super::quantization::describe;
use super::{atomic, bitmask, checkpoint, gguf, shards, weights, wrapper};
use crate::kernels::quantized::Format;
use crate::nn::Network;
use crate::{Error, Result, files, rng};

/// Files of a model folder other than its weights.
const DESCRIPTION: [&str; 14] = [
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
    "preprocessor_config.json",
    "processor_config.json",
    "spiece.model",
];

/// Configuration of a folder in the format of [`open_clip`](https://github.com/mlfoundations/open_clip).
const OPEN_CLIP: &str = "open_clip_config.json";

/// Folder of chat templates other than the default.
const TEMPLATES: &str = "additional_chat_templates";

/// Keys of `config.json` that describe quantized weights.
const QUANTIZATION: [&str; 2] = ["quantization", "quantization_config"];

/// Saves `model` to the folder `target`, together with the configuration, tokenizer and chat template of `source`, a
/// folder or GGUF file. The saved `config.json` states the dtype of the weights, and has no quantization settings
/// if no weight is quantized. The language model of a larger model is saved on its own.
///
/// # Errors
/// A folder that cannot be read or written.
pub fn save(source: &Path, target: &Path, model: &dyn Network) -> Result<()> {
    save_with(source, target, checkpoint::whole_config(source)?, model, &Stored::AsIs)
}

/// As [`save`], of a model that `config` describes, and not the `config.json` of the folder `source`.
///
/// # Errors
/// A folder that cannot be read or written.
pub fn save_described(source: &Path, target: &Path, config: Value, model: &dyn Network) -> Result<()> {
    save_with(source, target, config, model, &Stored::AsIs)
}

/// As [`save`], with matrices stored without their zeros where that is smaller, in the format sparse-bitmask of
/// compressed-tensors.
///
/// # Errors
/// A folder that cannot be read or written; a quantized model.
pub fn save_bitmask(source: &Path, target: &Path, model: &dyn Network) -> Result<()> {
    save_with(source, target, checkpoint::whole_config(source)?, model, &Stored::Bitmask)
}

/// How weights are stored.
enum Stored {
    /// As they are in memory.
    AsIs,
    /// Quantized, as described.
    Quantized(Value),
    /// Without zeros.
    Bitmask,
}

/// As [`save`], with quantization settings that describe weights in these `formats`, by key path.
///
/// # Errors
/// A folder that cannot be read or written.
pub fn save_quantized(
    source: &Path,
    target: &Path,
    model: &dyn Network,
    formats: &BTreeMap<String, Format>,
) -> Result<()> {
    let names = formats.iter().map(|(path, format)| (model.mlx_name(path).0, *format));
    let config = checkpoint::whole_config(source)?;
    save_with(source, target, config, model, &Stored::Quantized(describe(&names.collect())))
}

fn save_with(source: &Path, target: &Path, whole: Value, model: &dyn Network, stored: &Stored) -> Result<()> {
    let parameters = model.parameters().flatten();
    let is_packed = parameters.keys().any(|name| name.ends_with(".scales"));
    copy_description(source, target)?;
    let mut config = match wrapper::language_model(&whole) {
        None => whole,
        Some(config) => {
            log::warn!(
                "{}: only the language model ({}) of {} is written, without its other parts",
                target.display(),
                config["model_type"],
                whole["model_type"]
            );
            config
        }
    };
    model.update_config(&mut config);
    // transformers 5 writes "dtype", older versions "torch_dtype".
    let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[key] = format!("{:?}", model.dtype()).to_lowercase().into();
    if parameters.contains_key("lm_head.weight") {
        let shape = |name: &str| parameters.get(name).map(|x| x.shape());
        if ["weight", "scales"]
            .iter()
            .all(|leaf| shape(&format!("lm_head.{leaf}")) == shape(&format!("model.embed_tokens.{leaf}")))
        {
            describe_head(&mut config);
        }
    }
    if let Stored::Quantized(quantization) = stored {
        for key in QUANTIZATION {
            config[key] = quantization.clone();
        }
    }
    if !is_packed && let Some(fields) = config.as_object_mut() {
        for key in QUANTIZATION {
            fields.shift_remove(key);
        }
    }
    let is_bitmask = matches!(stored, Stored::Bitmask);
    if is_bitmask {
        config[QUANTIZATION[1]] = bitmask::describe();
    }
    atomic::write_text(&target.join("config.json"), &format!("{config:#}\n"))?;
    if is_bitmask { weights::save_bitmask(target, model) } else { weights::save(target, model, None) }
}

/// Copies everything but weights from `source`, a folder or GGUF file, to the folder `target`: tokenizer, chat templates
/// and, of a folder, configurations.
///
/// # Errors
/// A folder that cannot be read or written.
pub fn copy_description(source: &Path, target: &Path) -> Result<()> {
    fs::create_dir_all(target).map_err(Error::io("create", target))?;
    if gguf::is_file(source) {
        let files = gguf::tokenizer(&gguf::Reader::open(source)?)?;
        for (name, contents) in files.named() {
            atomic::write_text(&target.join(name), &format!("{contents:#}\n"))?;
        }
    }
    for name in description(source)? {
        let (from, to) = (source.join(&name), target.join(&name));
        if name.starts_with(TEMPLATES) {
            atomic::create_folder(&target.join(TEMPLATES))?;
        }
        let mut original = files::open(&from).map_err(Error::io("read", &from))?;
        // Not `fs::copy`: with the contents come the permissions, and what may only be read could not be replaced.
        atomic::write(&to, |file| io::copy(&mut original, file).map(|_| ()))?;
    }
    Ok(())
}

/// Files other than weights, relative to `folder`.
fn description(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut names: Vec<PathBuf> = DESCRIPTION.iter().map(PathBuf::from).collect();
    let templates = folder.join(TEMPLATES);
    if templates.is_dir() {
        for entry in fs::read_dir(&templates).map_err(Error::io("read", &templates))? {
            names.push(Path::new(TEMPLATES).join(entry.map_err(Error::io("read", &templates))?.file_name()));
        }
    }
    names.retain(|name| folder.join(name).is_file());
    Ok(names)
}

/// Describes an output head that is quantized like the embeddings, which it may have been tied to.
fn describe_head(config: &mut Value) {
    for key in QUANTIZATION {
        let Some(fields) = config.get_mut(key).and_then(Value::as_object_mut) else { continue };
        if let (Some(format), None) = (fields.get("model.embed_tokens").cloned(), fields.get("lm_head")) {
            fields.insert("lm_head".to_owned(), format);
        }
    }
}

/// Returns a hash of a model folder or GGUF file: of its `config.json` and of the names and sizes of its weight files.
/// The weights themselves are not read.
///
/// # Errors
/// A folder or file that is not a model.
pub fn fingerprint(folder: &Path) -> Result<String> {
    let open_clip = folder.join(OPEN_CLIP);
    let (mut text, weights) = if open_clip.is_file() && !folder.join("config.json").is_file() {
        let text = files::read(&open_clip, files::MAX_JSON).map_err(Error::io("read", &open_clip))?;
        (text, shards::open_clip_files(folder)?)
    } else {
        let weights = if gguf::is_file(folder) { vec![folder.to_owned()] } else { shards::files(folder)? };
        (checkpoint::config(folder)?.to_string().into_bytes(), weights)
    };
    for path in weights {
        let size = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        text.extend(path.file_name().unwrap_or_default().as_encoded_bytes());
        text.extend(size.to_le_bytes());
    }
    Ok(format!("{:016x}", rng::digest(text.into_iter().map(u64::from))))
}
