//! Model folders in Hugging Face format.

use std::fs;
use std::path::Path;

use mlx_rs::Dtype;

use super::{atomic, weights};
use crate::models::{self, Model};
use crate::{Error, Result};

/// Writes `model` to the folder `target` with all that describes it in `source`: configuration,
/// tokenizer and templates, every `.json` and `.jinja` but the index of shards.
///
/// # Errors
/// A folder that cannot be read or written.
pub fn save(source: &Path, target: &Path, model: &dyn Model, dtype: Option<Dtype>) -> Result<()> {
    fs::create_dir_all(target).map_err(Error::io("create", target))?;
    for entry in fs::read_dir(source).map_err(Error::io("read", source))? {
        let path = entry.map_err(Error::io("read", source))?.path();
        let (Some(name), Some(extension)) = (path.file_name(), path.extension()) else { continue };
        let is_index = name.to_string_lossy().ends_with(".index.json");
        if path.is_file() && (extension == "json" || extension == "jinja") && !is_index {
            atomic::write(&target.join(name), |temporary| fs::copy(&path, temporary).map(|_| ()))?;
        }
    }
    weights::save(target, model, dtype)
}

/// Writes a copy of the model folder `source` with its weights in `dtype`.
///
/// # Errors
/// A folder that is not a model, or cannot be written.
pub fn convert(source: &Path, target: &Path, dtype: Dtype) -> Result<()> {
    let model = models::load(source, Some(dtype))?;
    save(source, target, model.as_ref(), Some(dtype))
}
