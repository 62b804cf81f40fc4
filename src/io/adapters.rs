//! Low-rank adapters in mlx-lm's format: `adapters.safetensors` + `adapter_config.json`.
//!
//! Tensors are called `<path of the layer>.lora_a` (`[in, rank]`), `.lora_b` (`[rank, out]`) and, of type
//! `dora`, `.m` (`[out]`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mlx_rs::Array;
use serde::{Deserialize, Serialize};

use super::tensors::{self, Tensors};
use super::{atomic, weights};
use crate::models::Model;
use crate::nn::LowRank;
use crate::{Error, Result, kernels};

/// Tensors of an adapter.
pub const TENSORS: &str = "adapters.safetensors";
/// What an adapter says of itself.
pub const CONFIG: &str = "adapter_config.json";

/// Type of plain low-rank adapters.
pub const LORA: &str = "lora";
/// Type of low-rank adapters with [magnitudes](crate::nn::dora).
pub const DORA: &str = "dora";

/// The part of `adapter_config.json` that readers need; others are ignored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// [`LORA`], [`DORA`], or `"full"` for plain parameters.
    #[serde(default = "lora")]
    pub fine_tune_type: String,
    /// The adapter sits in this many last blocks; -1 for all.
    pub num_layers: i64,
    /// Shape and scale of the low-rank part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_parameters: Option<LoraParameters>,
    /// Model the adapter was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// `lora_parameters` of mlx-lm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoraParameters {
    /// Inner dimension.
    pub rank: u32,
    /// Factor of the low-rank part, `alpha / rank` in other libraries.
    pub scale: f32,
    /// Share of inputs zeroed in training.
    #[serde(default)]
    pub dropout: f32,
    /// Layers inside a block that carry an adapter; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<BTreeSet<String>>,
    /// How many ranks of each layer, by its path, are not zero, where they differ; for information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_pattern: Option<BTreeMap<String, u32>>,
}

fn lora() -> String {
    LORA.to_owned()
}

/// Writes the adapter attached to `model`; the configuration comes last, so a folder with
/// one is complete.
///
/// # Errors
/// No space or no permission.
pub fn save(folder: &Path, model: &dyn Model, config: &AdapterConfig) -> Result<()> {
    let tensors: Tensors = model
        .parameters()
        .flatten()
        .into_iter()
        .filter(|(name, _)| is_adapter(name))
        .map(|(name, x)| (name.to_string(), x.clone()))
        .collect();
    tensors::write(&folder.join(TENSORS), &tensors, &[("format", "mlx")])?;
    let json = serde_json::to_string_pretty(config)
        .map_err(|error| Error::Training(format!("cannot write {CONFIG}: {error}")))?;
    atomic::write_text(&folder.join(CONFIG), &(json + "\n"))
}

/// Attaches the adapter in `folder` to `model`, in the number format it is stored in.
///
/// # Errors
/// A file that is missing or broken; a tensor without a layer, or of the wrong shape; a kind
/// of adapter this version does not know.
pub fn load(folder: &Path, model: &mut dyn Model) -> Result<AdapterConfig> {
    let path = folder.join(CONFIG);
    let text = fs::read_to_string(&path).map_err(|_| {
        Error::ModelLoading(format!("{} is not an adapter: it has no {CONFIG}", folder.display()))
    })?;
    let broken = |why: String| Error::ModelLoading(format!("{}: {why}", path.display()));
    let config: AdapterConfig = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
    let loaded = tensors::read(&folder.join(TENSORS))?;
    match (config.fine_tune_type.as_str(), &config.lora_parameters) {
        (kind @ (LORA | DORA), Some(lora)) => attach(model, loaded, lora, kind == DORA),
        (LORA | DORA, None) => return Err(broken("\"lora_parameters\" is missing".into())),
        ("full", _) => replace(model, loaded),
        (other, _) => {
            return Err(broken(format!("\"fine_tune_type\" is \"{other}\", expected lora, dora or full")));
        }
    }
    .map_err(|problem| {
        Error::ModelLoading(format!("{} does not fit the model: {problem}", folder.display()))
    })?;
    Ok(config)
}

/// Whether a parameter belongs to an adapter.
#[must_use]
pub fn is_adapter(name: &str) -> bool {
    [".lora_a", ".lora_b", ".lora_e", ".m"].iter().any(|slot| name.ends_with(slot))
}

/// Opens the low-rank slots for which `loaded` has tensors; `dora` says that there are magnitudes.
fn attach(
    model: &mut dyn Model,
    mut loaded: Tensors,
    lora: &LoraParameters,
    dora: bool,
) -> std::result::Result<(), String> {
    let mut problems = Vec::new();
    let visited = model.visit_linears(&mut |name, layer| {
        let (a, b) = (loaded.remove(&format!("{name}.lora_a")), loaded.remove(&format!("{name}.lora_b")));
        let m = if dora { loaded.remove(&format!("{name}.m")) } else { None };
        if let Some(problem) = misfit_of_magnitude(name, layer.size().1, dora && a.is_some(), m.as_ref()) {
            problems.push(problem);
            return Ok(());
        }
        let (inputs, outputs) = layer.size();
        match (a, b) {
            (None, None) => {}
            (Some(a), Some(b)) => {
                let rank = b.dim(0);
                if a.shape() == [inputs, rank] && b.shape() == [rank, outputs] {
                    (*layer.lora_a, *layer.lora_b, *layer.m) = (Some(a), Some(b), m);
                    layer.low_rank =
                        LowRank { scale: lora.scale, dropout: lora.dropout, ..LowRank::default() };
                    layer.settle()?;
                } else {
                    problems.push(format!(
                        "\"{name}.lora_a\" {:?} and \"{name}.lora_b\" {:?} do not fit a layer from {inputs} to {outputs}",
                        a.shape(),
                        b.shape()
                    ));
                }
            }
            _ => problems.push(format!("\"{name}\" has only one of lora_a and lora_b")),
        }
        Ok(())
    });
    if let Err(error) = visited {
        problems.push(error.to_string());
    }
    problems.extend(loaded.keys().map(|name| format!("unexpected tensor \"{name}\"")));
    if problems.is_empty() { Ok(()) } else { Err(weights::summary(&problems)) }
}

/// What is wrong with the magnitude `m` of a layer with `outputs` outputs, `expected` or not.
fn misfit_of_magnitude(name: &str, outputs: i32, expected: bool, m: Option<&Array>) -> Option<String> {
    match m {
        None if expected => Some(format!("\"{name}.m\" is missing")),
        Some(_) if !expected => Some(format!("\"{name}\" has a magnitude but no lora_a")),
        Some(m) if m.shape() != [outputs] => {
            let shape = m.shape();
            Some(format!("\"{name}.m\" {shape:?} does not fit a layer with {outputs} outputs"))
        }
        _ => None,
    }
}

/// Replaces the plain parameters for which `loaded` has tensors.
fn replace(model: &mut dyn Model, loaded: Tensors) -> std::result::Result<(), String> {
    let mut parameters = model.parameters_mut().flatten();
    let problems: Vec<String> = loaded
        .iter()
        .filter(|(name, x)| parameters.get(name.as_str()).is_none_or(|slot| slot.shape() != x.shape()))
        .map(|(name, x)| format!("unexpected tensor \"{name}\" {:?}", x.shape()))
        .collect();
    if !problems.is_empty() {
        return Err(weights::summary(&problems));
    }
    for (name, x) in loaded {
        if let Some(slot) = parameters.get_mut(name.as_str()) {
            **slot = x.as_dtype(slot.dtype()).map_err(|error| error.to_string())?;
        }
    }
    kernels::eval(parameters.values().map(|x| &**x)).map_err(|error| error.to_string())
}
