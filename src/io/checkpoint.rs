//! Where a model comes from: a folder in Hugging Face format, or a GGUF file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{config, gguf, wrapper};
use crate::Result;

/// Returns the configuration of the language model at `path`: its `config.json`, or the part of it that describes the
/// language model in a larger one.
///
/// # Errors
/// A missing file, or one that is not valid.
pub fn config(path: &Path) -> Result<Value> {
    let config = whole_config(path)?;
    Ok(wrapper::language_model(&config).unwrap_or(config))
}

/// Returns the `config.json` of the model at `path`.
///
/// # Errors
/// A missing file, or one that is not valid.
pub fn whole_config(path: &Path) -> Result<Value> {
    if gguf::is_file(path) {
        return gguf::architecture::config(&mut gguf::Reader::open(path)?);
    }
    config::read(path)
}

/// Where the configuration of the model at `path` stands, for messages.
#[must_use]
pub fn config_place(path: &Path) -> PathBuf {
    if gguf::is_file(path) { path.to_owned() } else { path.join("config.json") }
}
