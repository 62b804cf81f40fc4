//! Model folders in both formats.

use std::fs;
use std::path::Path;

use mlx_rs::module::ModuleParameters as _;
use serde_json::{Value, json};

use super::load::Processor;
use crate::adapters::{self, Adapter};
use crate::io::{atomic, folder, tensors, weights};
use crate::models::clip::{self, Clip, Kind, open_clip, open_clip_config};
use crate::nn::Network as _;
use crate::nn::quantized::is_float;
use crate::params::Tensors;
use crate::{Error, Result};

/// The format of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `config.json` and `model.safetensors`.
    HuggingFace,
    /// `open_clip_config.json` and `open_clip_model.safetensors`.
    OpenClip,
}

impl Format {
    /// Returns the format called `name`.
    ///
    /// # Errors
    /// A name other than `huggingface` and `open_clip`.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "huggingface" => Ok(Self::HuggingFace),
            "open_clip" => Ok(Self::OpenClip),
            other => Err(Error::Config(format!(
                "format is \"{other}\", expected \"huggingface\" or \"open_clip\""
            ))),
        }
    }
}

/// Saves `model`, loaded from the folder `source`, with tokenizer and preprocessing to the folder `target`. An adapter is
/// merged.
///
/// # Errors
/// A model that the format has no settings for; a folder that cannot be written.
pub fn save(source: &Path, target: &Path, model: &Clip, processor: &Processor, format: Format) -> Result<()> {
    let mut merged = model.clone();
    let adapter = Adapter::from_network(&mut merged, None)?;
    if !adapter.is_empty() {
        adapters::merge_weights(&mut merged, &adapter, None)?;
    }
    let model = &merged;
    let mut config = clip::read_config(source)?;
    model.update_config(&mut config);
    let description = match format {
        Format::HuggingFace => None,
        Format::OpenClip => Some(open_clip_description(model, processor, &config)?),
    };
    fs::create_dir_all(target).map_err(Error::io("create", target))?;
    folder::copy_description(source, target)?;
    let text = |json: &Value| format!("{json:#}\n");
    if let Some(description) = description {
        let tensors: Tensors =
            model.parameters().flatten().into_iter().map(|(name, x)| (name.to_string(), x.clone())).collect();
        let tensors = open_clip::export(model.export(tensors)?)?;
        // The configuration of another format would count.
        for name in ["config.json", "preprocessor_config.json", "processor_config.json"] {
            let path = target.join(name);
            if path.is_file() {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        tensors::write(&target.join(open_clip::FILE), &tensors, &[("format", "pt")])?;
        return atomic::write_text(&target.join(open_clip::CONFIG), &text(&description));
    }
    config["torch_dtype"] = format!("{:?}", model.dtype()).to_lowercase().into();
    let preprocessing = processor.images.to_hugging_face(model.kind() == Kind::Siglip);
    atomic::write_text(&target.join("preprocessor_config.json"), &text(&preprocessing))?;
    atomic::write_text(&target.join("config.json"), &text(&config))?;
    weights::save(target, model, None)
}

/// The `open_clip_config.json` of `model`.
fn open_clip_description(model: &Clip, processor: &Processor, config: &Value) -> Result<Value> {
    if model.parameters().flatten().values().any(|x| !is_float(x.dtype())) {
        return Err(Error::Config(
            "open_clip has no quantized weights; save the model in Hugging Face's format".into(),
        ));
    }
    Ok(json!({
        "model_cfg": open_clip_config::describe(config)?,
        "preprocess_cfg": processor.images.to_open_clip(),
    }))
}
