//! Low-rank adapters in mlx-lm's format: `adapters.safetensors` and `adapter_config.json`.
//!
//! Tensors are named `<key path>.lora_a` (`[in, rank]`) and `.lora_b` (`[rank, out]`) and, for `DoRA`, `.m`
//! (`[out]`); those of experts are [stacked](super::experts). All layers have the same rank and scale.
//!
//! Until version 0.19, configurations said `lora_layers` for `num_layers` and `use_dora` for `fine_tune_type`; which
//! layers are adapted is read from the tensors. `alpha`, which versions before 0.14.2 multiplied by, is ignored as
//! by all later ones: the files do not tell which version wrote them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_rs::Array;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::experts::{stack_experts, unstack_experts};
use super::format::CONFIG;
use super::nulls::without_nulls;
use super::stored::StoredAdapter;
use super::uniform_rank::to_uniform_rank;
use crate::adapters::adapter::{Adapter, AdapterLayer, DORA, LORA, kind as kind_of};
use crate::adapters::names::{layer_names, num_blocks, split_block};
use crate::io::tensors;
use crate::io::{atomic, weights};
use crate::nn::Network;
use crate::params::Tensors;
use crate::{Error, Result};

/// File with the tensors of an adapter.
pub(super) const TENSORS: &str = "adapters.safetensors";

/// Keys of `adapter_config.json` that are read; others are ignored.
#[derive(Debug, Clone, Deserialize)]
struct File {
    /// [`LORA`], [`DORA`], or `"full"` for plain parameters.
    fine_tune_type: Option<String>,
    #[serde(default)]
    use_dora: bool,
    lora_parameters: Option<FileParameters>,
    /// Model the adapter was trained on.
    model: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct FileParameters {
    scale: f32,
    #[serde(default)]
    dropout: f32,
    #[serde(default)]
    rank_pattern: BTreeMap<String, u32>,
}

/// Content of an `adapter_config.json` that is written.
#[derive(Debug, Clone, Serialize)]
struct AdapterConfig {
    /// [`LORA`] or [`DORA`].
    fine_tune_type: &'static str,
    /// Number of adapted blocks, counted from the last; -1 for all.
    num_layers: i64,
    /// Settings of low-rank adapters.
    lora_parameters: LoraParameters,
    /// Model the adapter was trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct LoraParameters {
    /// Rank.
    rank: u32,
    /// Scaling factor, `alpha / rank` in other libraries.
    scale: f32,
    /// Dropout probability.
    dropout: f32,
    /// Names of adapted layers within a block, or paths of those outside of blocks.
    keys: BTreeSet<String>,
    /// Number of non-zero ranks by key path, if layers differ; informational.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    rank_pattern: BTreeMap<String, u32>,
}

/// Reads the adapter in `folder`, which has the configuration `json`.
pub(super) fn read(folder: &Path, json: &Value, model: Option<&dyn Network>) -> Result<StoredAdapter> {
    let path = folder.join(CONFIG);
    let broken = |why: String| Error::ModelLoading(format!("{}: {why}", path.display()));
    let config: File =
        serde_path_to_error::deserialize(without_nulls(json)).map_err(|error| broken(error.to_string()))?;
    let kind = config.fine_tune_type.as_deref().unwrap_or(kind_of(config.use_dora));
    match (kind, config.lora_parameters) {
        (kind @ (LORA | DORA), Some(lora)) => {
            let path = folder.join(TENSORS);
            let layers = layers(tensors::read(&path)?, lora.scale, kind == DORA, model)
                .map_err(|problem| Error::ModelLoading(format!("{}: {problem}", path.display())))?;
            Ok(StoredAdapter::LowRank(Adapter {
                layers,
                dropout: lora.dropout,
                base_model: config.model,
                ranks: lora.rank_pattern,
                whole: BTreeMap::new(),
                is_image_text: false,
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

/// Checks that the format can hold `adapter`.
///
/// # Errors
/// Whole modules, by name.
pub(super) fn check(adapter: &Adapter) -> Result<()> {
    match adapter.whole.keys().next() {
        None => Ok(()),
        Some(name) => Err(Error::Config(format!(
            "the adapter has whole modules, such as \"{name}\", which mlx-lm's format does not know: write it in \
             PEFT's (adapter_format \"peft\"), merge it into the model, or give model_path if they are copies of its own"
        ))),
    }
}

/// Writes `adapter` to `folder`.
///
/// # Errors
/// Those of [`check`]; no space or no permission.
pub(super) fn write(folder: &Path, adapter: &Adapter, mut model: Option<&mut dyn Network>) -> Result<()> {
    check(adapter)?;
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
    let keys = paths.map(|path| split_block(path).map_or(path, |(_, name)| name).to_owned()).collect();
    let config = AdapterConfig {
        fine_tune_type: adapter.kind(),
        num_layers,
        lora_parameters: LoraParameters {
            rank: uniform.rank as u32,
            scale: uniform.scale,
            dropout: adapter.dropout,
            keys,
            rank_pattern: adapter.ranks.clone(),
        },
        model: adapter.base_model.clone(),
    };
    tensors::write(&folder.join(TENSORS), &tensors, &[("format", "mlx")])?;
    let json = serde_json::to_string_pretty(&config)
        .map_err(|error| Error::Training(format!("cannot write {CONFIG}: {error}")))?;
    atomic::write_text(&folder.join(CONFIG), &(json + "\n"))
}
