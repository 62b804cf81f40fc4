//! Low-rank adapters in mlx-lm's format: `adapters.safetensors` and `adapter_config.json`.
//!
//! Tensors are named `<key path>.lora_a` (`[in, rank]`) and `.lora_b` (`[rank, out]`) and, for `DoRA`, `.m`
//! (`[out]`); those of experts are [stacked](super::experts). All layers have the same rank and scale.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_rs::Array;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::experts::{stack_experts, unstack_experts};
use super::format::CONFIG;
use super::stored::StoredAdapter;
use super::uniform_rank::to_uniform_rank;
use crate::adapters::adapter::{Adapter, AdapterLayer, DORA, LORA};
use crate::adapters::names::{layer_names, num_blocks, split_block};
use crate::io::tensors;
use crate::io::{atomic, weights};
use crate::nn::Network;
use crate::params::Tensors;
use crate::{Error, Result};

/// File with the tensors of an adapter.
pub(super) const TENSORS: &str = "adapters.safetensors";

/// Keys of `adapter_config.json` that are used; others are ignored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct AdapterConfig {
    /// [`LORA`], [`DORA`], or `"full"` for plain parameters.
    #[serde(default = "lora")]
    fine_tune_type: String,
    /// Number of adapted blocks, counted from the last; -1 for all.
    num_layers: i64,
    /// Settings of low-rank adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lora_parameters: Option<LoraParameters>,
    /// Model the adapter was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LoraParameters {
    /// Rank.
    rank: u32,
    /// Scaling factor, `alpha / rank` in other libraries.
    scale: f32,
    /// Dropout probability.
    #[serde(default)]
    dropout: f32,
    /// Names of adapted layers within a block; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<BTreeSet<String>>,
    /// Number of non-zero ranks by key path, if layers differ; informational.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    rank_pattern: BTreeMap<String, u32>,
}

fn lora() -> String {
    LORA.to_owned()
}

/// Reads the adapter in `folder`, which has the configuration `json`.
pub(super) fn read(folder: &Path, json: Value, model: Option<&dyn Network>) -> Result<StoredAdapter> {
    let path = folder.join(CONFIG);
    let broken = |why: String| Error::ModelLoading(format!("{}: {why}", path.display()));
    let config: AdapterConfig = serde_json::from_value(json).map_err(|error| broken(error.to_string()))?;
    match (config.fine_tune_type.as_str(), config.lora_parameters) {
        (kind @ (LORA | DORA), Some(lora)) => {
            let path = folder.join(TENSORS);
            let layers = layers(tensors::read(&path)?, lora.scale, kind == DORA, model)
                .map_err(|problem| Error::ModelLoading(format!("{}: {problem}", path.display())))?;
            Ok(StoredAdapter::LowRank(Adapter {
                layers,
                dropout: lora.dropout,
                base_model: config.model,
                ranks: lora.rank_pattern,
            }))
        }
        (LORA | DORA, None) => Err(broken("\"lora_parameters\" is missing".into())),
        ("full", _) => Ok(StoredAdapter::Full(tensors::read(&folder.join(TENSORS))?)),
        (other, _) => Err(broken(format!("\"fine_tune_type\" is \"{other}\", expected lora, dora or full"))),
    }
}

/// Groups tensors by layer; `dora` tells whether there are magnitudes.
fn layers(
    loaded: Tensors,
    scale: f32,
    dora: bool,
    model: Option<&dyn Network>,
) -> std::result::Result<BTreeMap<String, AdapterLayer>, String> {
    let mut problems = Vec::new();
    let mut groups: BTreeMap<String, [Option<Array>; 3]> = BTreeMap::new();
    for (name, tensor) in loaded {
        for (name, tensor) in unstack_experts(&name, tensor, model)? {
            match name.rsplit_once('.') {
                Some((path, "lora_a")) => groups.entry(path.to_owned()).or_default()[0] = Some(tensor),
                Some((path, "lora_b")) => groups.entry(path.to_owned()).or_default()[1] = Some(tensor),
                Some((path, "m")) if dora => groups.entry(path.to_owned()).or_default()[2] = Some(tensor),
                _ => problems.push(format!("unexpected tensor \"{name}\"")),
            }
        }
    }
    let mut layers = BTreeMap::new();
    for (path, group) in groups {
        match group {
            [Some(_), Some(_), None] if dora => problems.push(format!("\"{path}.m\" is missing")),
            [Some(a), Some(b), m] => match AdapterLayer::new(&path, a, b, m, scale) {
                Ok(layer) => drop(layers.insert(path, layer)),
                Err(problem) => problems.push(problem),
            },
            [None, None, Some(_)] => problems.push(format!("\"{path}\" has a magnitude but no lora_a")),
            _ => problems.push(format!("\"{path}\" has only one of lora_a and lora_b")),
        }
    }
    if problems.is_empty() { Ok(layers) } else { Err(weights::summarize(&problems)) }
}

/// Writes `adapter` to `folder`.
pub(super) fn write(folder: &Path, adapter: &Adapter, mut model: Option<&mut dyn Network>) -> Result<()> {
    let uniform = to_uniform_rank(adapter)?;
    let blocks = adapter.layers.keys().filter_map(|path| Some(split_block(path)?.0));
    let first = blocks.min().unwrap_or(0);
    // Without a model, all blocks: mlx-lm initializes missing matrices with zeros.
    let num_layers = match model.as_deref_mut() {
        Some(model) => num_blocks(&layer_names(model)?) as i64 - first as i64,
        None => -1,
    };
    let tensors = stack_experts(uniform.layers, model)?;
    let paths = tensors.keys().filter_map(|name| name.strip_suffix(".lora_a"));
    let keys = paths.filter_map(|path| Some(split_block(path)?.1.to_owned())).collect();
    let config = AdapterConfig {
        fine_tune_type: adapter.kind().to_owned(),
        num_layers,
        lora_parameters: Some(LoraParameters {
            rank: uniform.rank as u32,
            scale: uniform.scale,
            dropout: adapter.dropout,
            keys: Some(keys),
            rank_pattern: adapter.ranks.clone(),
        }),
        model: adapter.base_model.clone(),
    };
    tensors::write(&folder.join(TENSORS), &tensors, &[("format", "mlx")])?;
    let json = serde_json::to_string_pretty(&config)
        .map_err(|error| Error::Training(format!("cannot write {CONFIG}: {error}")))?;
    atomic::write_text(&folder.join(CONFIG), &(json + "\n"))
}
