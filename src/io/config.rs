//! Reading `config.json`; errors name the key at fault.

use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result, files};

/// Largest `config.json` that is read, in bytes; real ones have a few thousand.
const MAX_BYTES: u64 = 1 << 22;

/// Returns the parsed `config.json` of the model folder `folder`.
///
/// # Errors
/// A missing file, or one that is not valid JSON.
pub(super) fn read(folder: &Path) -> Result<Value> {
    let path = folder.join("config.json");
    let broken = |why: String| Error::ModelLoading(format!("{}: {why}", path.display()));
    let text = files::read_to_string(&path, MAX_BYTES).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Error::ModelLoading(format!(
            "{} has no config.json: a model is a folder in Hugging Face format (config.json, \
             *.safetensors, tokenizer.json) or a GGUF file",
            folder.display()
        )),
        _ => broken(error.to_string()),
    })?;
    serde_json::from_str(&text).map_err(|error| broken(format!("not valid JSON: {error}")))
}

/// Returns the string under `key`.
///
/// # Errors
/// A missing key, or a value that is not a string.
pub(crate) fn string<'a>(config: &'a Value, key: &str) -> Result<&'a str> {
    config[key].as_str().ok_or_else(|| Error::ModelLoading(format!("\"{key}\" is missing or not a string")))
}

/// Deserializes `config` into `T`, ignoring unknown keys.
///
/// # Errors
/// A missing key or a value of the wrong type, by key.
pub(crate) fn parse<T: DeserializeOwned>(config: &Value) -> Result<T> {
    serde_path_to_error::deserialize(config).map_err(|error| Error::ModelLoading(error.to_string()))
}

/// Returns `config` with `defaults` for absent keys; a key that is `null` is left as it is.
pub(crate) fn with_defaults(config: &Value, defaults: &[(&str, f64)]) -> Value {
    let mut config = config.clone();
    for &(key, number) in defaults {
        if let Some(fields) = config.as_object_mut() {
            fields.entry(key).or_insert_with(|| number.into());
        }
    }
    config
}

/// Returns `value` as an `i32`.
///
/// # Errors
/// A value outside `1..=max`, by key.
pub(crate) fn size(key: &str, value: i64, max: i32) -> Result<i32> {
    match i32::try_from(value) {
        Ok(value) if (1..=max).contains(&value) => Ok(value),
        _ => Err(Error::ModelLoading(format!("\"{key}\" is {value}, expected 1 to {max}"))),
    }
}
