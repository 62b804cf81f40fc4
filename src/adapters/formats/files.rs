//! Reading and writing adapter folders.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::format::{CONFIG, Format};
use super::soft_prompt::{self, PromptKind};
use super::stored::StoredAdapter;
use super::{mlx_lm, peft};
use crate::adapters::adapter::Adapter;
use crate::io::weights;
use crate::models::Model;
use crate::nn::Network;
use crate::params::Tensors;
use crate::{Error, Result, files, kernels};

/// All files of an adapter, in either format.
pub const FILES: [&str; 3] = [CONFIG, mlx_lm::TENSORS, peft::TENSORS];

/// Reads the adapter in `folder` and detects its format. `model` maps the stacked experts of mlx-lm to its
/// layers.
///
/// # Errors
/// A missing or broken file, an unsupported kind of adapter, or a setting that low-rank matrices cannot
/// represent, by key.
pub fn read(folder: &Path, model: Option<&dyn Network>) -> Result<(StoredAdapter, Format)> {
    files::guard(folder, Error::ModelLoading, || read_unguarded(folder, model))
}

fn read_unguarded(folder: &Path, model: Option<&dyn Network>) -> Result<(StoredAdapter, Format)> {
    let path = folder.join(CONFIG);
    let broken = |why: String| Error::ModelLoading(format!("{}: {why}", path.display()));
    if !path.exists() {
        return Err(not_an_adapter(folder));
    }
    let text = files::read_to_string(&path, files::MAX_JSON).map_err(|error| broken(error.to_string()))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
    if let Some(kind) = PromptKind::from_config(&json) {
        return Ok((StoredAdapter::Prompt(soft_prompt::read(folder, kind, &json)?), Format::Peft));
    }
    if json.get("peft_type").is_some() {
        return Ok((StoredAdapter::LowRank(peft::read(folder, &json)?), Format::Peft));
    }
    Ok((mlx_lm::read(folder, &json, model)?, Format::Mlx))
}

/// Reads the adapter in `folder` and attaches it to `model`, in the dtype it is stored in.
///
/// # Errors
/// Those of [`read`]; a tensor without a layer or of the wrong shape.
pub fn load(folder: &Path, model: &mut Model) -> Result<StoredAdapter> {
    let (stored, _) = read(folder, Some(model))?;
    let outcome = match &stored {
        StoredAdapter::LowRank(adapter) => adapter.attach(model),
        StoredAdapter::Prompt(prompt) => prompt.attach(model),
        StoredAdapter::Full(tensors) => replace(model, tensors),
    };
    outcome.map_err(|problem| {
        Error::ModelLoading(format!("{} does not fit the model: {problem}", folder.display()))
    })?;
    Ok(stored)
}

/// Checks that `format` can hold `adapter`.
///
/// # Errors
/// What it cannot hold, by name.
pub fn check(adapter: &Adapter, format: Format) -> Result<()> {
    match format {
        Format::Mlx => mlx_lm::check(adapter),
        Format::Peft => Ok(()),
    }
}

/// Writes `adapter` to `folder`. The configuration is written last, so that a folder with one is complete.
/// With a `model`, target modules are named as briefly as its other layers allow.
///
/// # Errors
/// No space, no permission, or an adapter without layers.
pub fn write(
    folder: &Path,
    adapter: &Adapter,
    format: Format,
    model: Option<&mut dyn Network>,
) -> Result<()> {
    if adapter.layers.is_empty() {
        return Err(Error::Config("the adapter has no layers".into()));
    }
    match format {
        Format::Mlx => mlx_lm::write(folder, adapter, model),
        Format::Peft => peft::write(folder, adapter, model),
    }
}

fn not_an_adapter(folder: &Path) -> Error {
    let mut inside: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join(CONFIG).is_file())
        .map(|path| path.display().to_string())
        .collect();
    inside.sort();
    // PEFT saves named adapters to a subfolder.
    let hint = match inside.first() {
        Some(first) => format!("; did you mean {first}?"),
        None => String::new(),
    };
    Error::ModelLoading(format!("{} is not an adapter: it has no {CONFIG}{hint}", folder.display()))
}

/// Replaces the parameters of `model` by the tensors in `loaded`.
fn replace(model: &mut dyn Network, loaded: &Tensors) -> std::result::Result<(), String> {
    let mut parameters = model.parameters_mut().flatten();
    let problems: Vec<String> = loaded
        .iter()
        .filter(|(name, x)| parameters.get(name.as_str()).is_none_or(|slot| slot.shape() != x.shape()))
        .map(|(name, x)| format!("unexpected tensor \"{name}\" {:?}", x.shape()))
        .collect();
    if !problems.is_empty() {
        return Err(weights::summarize(&problems));
    }
    for (name, x) in loaded {
        if let Some(slot) = parameters.get_mut(name.as_str()) {
            **slot = x.as_dtype(slot.dtype()).map_err(|error| error.to_string())?;
        }
    }
    kernels::eval(parameters.values().map(|x| &**x)).map_err(|error| error.to_string())
}
