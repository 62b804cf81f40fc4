//! Adapters on disk, in the format of mlx-lm or of PEFT, and the one description in memory that both are read
//! into and written from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mlx_rs::Array;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::weights;
use crate::models::Model;
use crate::nn::LowRank;
use crate::nn::packed::is_float;
use crate::params::Tensors;
use crate::{Error, Result, kernels};

mod convert;
pub mod mlx_lm;
mod names;
pub mod peft;
mod peft_config;
mod prompt;
mod stacks;
mod uniform;

pub use convert::{Conversion, convert};
pub use names::Patterns;
pub use prompt::{PromptKind, SoftPrompt};

/// What an adapter says of itself, in both formats.
pub const CONFIG: &str = "adapter_config.json";
/// Every file of an adapter, in either format.
pub const FILES: [&str; 3] = [CONFIG, mlx_lm::TENSORS, peft::TENSORS];

/// Type of plain low-rank adapters.
pub const LORA: &str = "lora";
/// Type of low-rank adapters with [magnitudes](crate::nn::dora).
pub const DORA: &str = "dora";

/// Largest `adapter_config.json` that is read, in bytes.
const MAX_CONFIG: u64 = 64_000_000;

/// How an adapter lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `adapters.safetensors`, as [mlx-lm](https://github.com/ml-explore/mlx-lm) reads and writes it.
    Mlx,
    /// `adapter_model.safetensors`, as [PEFT](https://github.com/huggingface/peft) reads and writes it.
    Peft,
}

/// Low-rank matrices by the key path of their layer.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Sorted by path.
    pub layers: BTreeMap<String, AdapterLayer>,
    /// Share of inputs zeroed in training.
    pub dropout: f32,
    /// Model the adapter was trained on, as far as is known.
    pub base_model: Option<String>,
    /// How many ranks of each layer, by its path, are not zero, where they differ; for information.
    pub ranks: BTreeMap<String, u32>,
}

/// The low-rank part of one layer, `s·(x·A)·B`, and its [magnitude](crate::nn::dora).
#[derive(Debug, Clone)]
pub struct AdapterLayer {
    /// `A`, `[in, rank]`
    pub a: Array,
    /// `B`, `[rank, out]`
    pub b: Array,
    /// `m`, `[out]`, of an adapter with magnitudes.
    pub m: Option<Array>,
    /// `s`
    pub scale: f32,
}

/// What a folder holds.
#[derive(Debug, Clone)]
pub enum Stored {
    /// Low-rank matrices beside frozen weights.
    LowRank(Adapter),
    /// Virtual tokens before every text.
    Prompt(SoftPrompt),
    /// Plain parameters that replace those of the model, of mlx-lm's `fine_tune_type` `full`.
    Full(Tensors),
}

impl AdapterLayer {
    /// Inner dimension.
    #[must_use]
    pub fn rank(&self) -> i32 {
        self.b.dim(0)
    }

    /// A layer whose matrices belong together.
    ///
    /// # Errors
    /// Matrices that do not, or a scale that is no number.
    fn new(
        path: &str,
        a: Array,
        b: Array,
        m: Option<Array>,
        scale: f32,
    ) -> std::result::Result<Self, String> {
        let fits = a.ndim() == 2 && b.ndim() == 2 && a.dim(1) == b.dim(0) && a.dim(1) > 0;
        if !fits {
            let (a, b) = (a.shape(), b.shape());
            return Err(format!("\"{path}\": A of shape {a:?} and B of shape {b:?} do not belong together"));
        }
        for x in [&a, &b].into_iter().chain(&m) {
            if !is_float(x.dtype()) {
                return Err(format!("\"{path}\" is {:?}, expected floating-point numbers", x.dtype()));
            }
        }
        if !scale.is_finite() {
            return Err(format!("\"{path}\" is scaled by {scale}, expected a finite number"));
        }
        Ok(Self { a, b, m, scale })
    }
}

impl Adapter {
    /// [`LORA`] or [`DORA`].
    #[must_use]
    pub fn kind(&self) -> &'static str {
        kind(self.layers.values().any(|layer| layer.m.is_some()))
    }

    /// What is attached to `model`.
    ///
    /// # Errors
    /// None of its own.
    pub fn of(model: &mut dyn Model, base_model: Option<String>) -> Result<Self> {
        let mut adapter = Self { layers: BTreeMap::new(), dropout: 0.0, base_model, ranks: BTreeMap::new() };
        model.visit_linears(&mut |path, layer| {
            if let (Some(a), Some(b)) = (&*layer.lora_a, &*layer.lora_b) {
                let (a, b, m) = (a.clone(), b.clone(), (*layer.m).clone());
                let part = AdapterLayer { a, b, m, scale: layer.low_rank.scale };
                adapter.layers.insert(path.to_owned(), part);
                adapter.dropout = layer.low_rank.dropout;
            }
            Ok(())
        })?;
        Ok(adapter)
    }

    /// Whether every matrix has a layer in `model`, of its size.
    ///
    /// # Errors
    /// Those that have not, listed.
    pub fn check(&self, model: &mut dyn Model) -> Result<(), String> {
        let mut problems = Vec::new();
        let mut unknown: BTreeSet<&String> = self.layers.keys().collect();
        let visited = model.visit_linears(&mut |path, layer| {
            let Some((path, AdapterLayer { a, b, m, .. })) = self.layers.get_key_value(path) else {
                return Ok(());
            };
            unknown.remove(path);
            let (inputs, outputs) = layer.size();
            if a.dim(0) != inputs || b.dim(1) != outputs {
                let (a, b) = (a.shape(), b.shape());
                problems.push(format!(
                    "A {a:?} and B {b:?} of \"{path}\" do not fit a layer from {inputs} to {outputs}"
                ));
            }
            if let Some(m) = m.as_ref().filter(|m| m.shape() != [outputs]) {
                let shape = m.shape();
                problems.push(format!(
                    "the magnitude {shape:?} of \"{path}\" does not fit a layer with {outputs} outputs"
                ));
            }
            Ok(())
        });
        if let Err(error) = visited {
            problems.push(error.to_string());
        }
        problems.extend(unknown.into_iter().map(|path| format!("there is no layer \"{path}\"")));
        if problems.is_empty() { Ok(()) } else { Err(weights::summary(&problems)) }
    }

    /// Puts the adapter onto `model`, all of it or nothing; layers without a part of it stay as they are.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn attach(&self, model: &mut dyn Model) -> Result<(), String> {
        self.check(model)?;
        let set = model.visit_linears(&mut |path, layer| {
            if let Some(AdapterLayer { a, b, m, scale }) = self.layers.get(path) {
                (*layer.lora_a, *layer.lora_b, *layer.m) = (Some(a.clone()), Some(b.clone()), m.clone());
                layer.low_rank = LowRank { scale: *scale, dropout: self.dropout, ..LowRank::default() };
                layer.settle()?;
            }
            Ok(())
        });
        set.map_err(|error| error.to_string())
    }

    /// The arrays of all matrices.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.values().flat_map(|layer| [&layer.a, &layer.b].into_iter().chain(&layer.m))
    }
}

/// The type of an adapter.
#[must_use]
pub fn kind(has_magnitudes: bool) -> &'static str {
    if has_magnitudes { DORA } else { LORA }
}

/// Key paths of every layer that an adapter may sit on, in order.
///
/// # Errors
/// None of its own.
pub fn layer_names(model: &mut dyn Model) -> Result<Vec<String>> {
    let mut names = Vec::new();
    model.visit_linears(&mut |path, _| {
        names.push(path.to_owned());
        Ok(())
    })?;
    Ok(names)
}

/// Whether a parameter belongs to an adapter.
#[must_use]
pub fn is_adapter(name: &str) -> bool {
    name.starts_with("prompt.")
        || [".lora_a", ".lora_b", ".lora_e", ".m"].iter().any(|slot| name.ends_with(slot))
}

/// Reads the adapter in `folder` and which format it is in. The names of experts that mlx-lm stacks are known only
/// with a `model`.
///
/// # Errors
/// A file that is missing or broken; a kind of adapter this version does not know; something that low-rank matrices
/// cannot represent, by its key.
pub fn read(folder: &Path, model: Option<&dyn Model>) -> Result<(Stored, Format)> {
    let path = folder.join(CONFIG);
    let broken = |why: String| Error::ModelLoading(format!("{}: {why}", path.display()));
    let Ok(file) = fs::metadata(&path) else { return Err(not_an_adapter(folder)) };
    if file.len() > MAX_CONFIG {
        return Err(broken(format!("has {} bytes, more than {MAX_CONFIG}", file.len())));
    }
    let text = fs::read_to_string(&path).map_err(|error| broken(error.to_string()))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
    if let Some(kind) = PromptKind::of(&json) {
        return Ok((Stored::Prompt(prompt::read(folder, kind, &json)?), Format::Peft));
    }
    if json.get("peft_type").is_some() {
        return Ok((Stored::LowRank(peft::read(folder, &json)?), Format::Peft));
    }
    Ok((mlx_lm::read(folder, json, model)?, Format::Mlx))
}

/// Attaches the adapter in `folder` to `model`, in the number format it is stored in.
///
/// # Errors
/// As [`read`]; a tensor without a layer, or of the wrong shape.
pub fn load(folder: &Path, model: &mut dyn Model) -> Result<Stored> {
    let (stored, _) = read(folder, Some(model))?;
    let outcome = match &stored {
        Stored::LowRank(adapter) => adapter.attach(model),
        Stored::Prompt(prompt) => prompt.attach(model),
        Stored::Full(tensors) => replace(model, tensors),
    };
    outcome.map_err(|problem| {
        Error::ModelLoading(format!("{} does not fit the model: {problem}", folder.display()))
    })?;
    Ok(stored)
}

/// Writes `adapter` to `folder`; the configuration comes last, so a folder with one is complete. With a `model`,
/// the files name layers as briefly as its other layers allow.
///
/// # Errors
/// No space or no permission; an adapter of nothing.
pub fn write(folder: &Path, adapter: &Adapter, format: Format, model: Option<&mut dyn Model>) -> Result<()> {
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
    // PEFT puts adapters that have a name into a folder of their own.
    let hint = match inside.first() {
        Some(first) => format!("; did you mean {first}?"),
        None => String::new(),
    };
    Error::ModelLoading(format!("{} is not an adapter: it has no {CONFIG}{hint}", folder.display()))
}

/// `model.layers.3.self_attn.q_proj` → `(3, "self_attn.q_proj")`
pub(crate) fn split(path: &str) -> Option<(usize, &str)> {
    let (_, rest) = path.split_once("layers.")?;
    let (block, name) = rest.split_once('.')?;
    Some((block.parse().ok()?, name))
}

/// Replaces the plain parameters for which `loaded` has tensors.
fn replace(model: &mut dyn Model, loaded: &Tensors) -> std::result::Result<(), String> {
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
