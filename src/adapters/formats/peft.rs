//! Low-rank adapters in PEFT's format: `adapter_model.safetensors` and `adapter_config.json`.
//!
//! Tensors are named `base_model.model.<key path>.lora_A.weight` (`[rank, in]`) and `.lora_B.weight` (`[out,
//! rank]`), with `use_dora` also `.lora_magnitude_vector` (`[out]`). A layer is scaled by `alpha / rank`;
//! both may differ by layer. Adapters of `AdaLoRA` (`.lora_A`, `.lora_E` `[rank, 1]` and `.lora_B`) are read
//! as plain products. Tensors under the name of a parameter (`modules_to_save`), and those of the layer below an
//! adapter (`.base_layer.weight`, which PEFT saves of an output head), replace it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_rs::Array;
use serde_json::{Map, Value, json};

use super::format::CONFIG;
use super::peft_config::PeftConfig;
use super::uniform_rank::most_frequent;
use crate::adapters::adapter::{Adapter, AdapterLayer, DORA};
use crate::adapters::names::{ends_with, layer_names};
use crate::adapters::whole::{EMBEDDING_WEIGHT, HEAD, HEAD_WEIGHT, WholeModule};
use crate::io::tensors;
use crate::io::{atomic, weights};
use crate::nn::Network;
use crate::nn::quantized::is_float;
use crate::params::Tensors;
use crate::{Error, Result};

/// File with the tensors of an adapter.
pub(super) const TENSORS: &str = "adapter_model.safetensors";
/// Tensors as a Python pickle, which could execute arbitrary code and is not read.
const PICKLED: &str = "adapter_model.bin";
/// Suffix of magnitudes, in newer and older versions.
const MAGNITUDES: [&str; 2] = [".lora_magnitude_vector", ".lora_magnitude_vector.weight"];
const PREFIX: &str = "base_model.model.";

type Outcome<T> = std::result::Result<T, String>;

/// Reads the adapter in `folder`, which has the configuration `json`.
pub(super) fn read(folder: &Path, json: &Value) -> Result<Adapter> {
    let path = folder.join(CONFIG);
    let config =
        PeftConfig::parse(json).map_err(|why| Error::ModelLoading(format!("{}: {why}", path.display())))?;
    refuse_pickles(folder)?;
    let path = folder.join(TENSORS);
    let broken = |problem| Error::ModelLoading(format!("{}: {problem}", path.display()));
    let mut loaded = tensors::read(&path)?;
    let whole = whole_modules(&mut loaded, &config).map_err(broken)?;
    let layers = layers(loaded, &config).map_err(broken)?;
    let (dropout, base_model) = (config.dropout, config.base_model);
    Ok(Adapter { layers, dropout, base_model, whole, ..Adapter::default() })
}

/// Rejects a folder that has pickled weights only.
pub(super) fn refuse_pickles(folder: &Path) -> Result<()> {
    if !folder.join(TENSORS).exists() && folder.join(PICKLED).exists() {
        return Err(Error::ModelLoading(format!(
            "{}: pickled weights are not read; save the adapter with safe_serialization=True",
            folder.join(PICKLED).display()
        )));
    }
    Ok(())
}

/// Takes the tensors that replace parameters out of `loaded`.
fn whole_modules(loaded: &mut Tensors, config: &PeftConfig) -> Outcome<BTreeMap<String, WholeModule>> {
    let mut whole = BTreeMap::new();
    let mut missing: BTreeSet<&String> = config.saved.names.iter().collect();
    for (name, value) in std::mem::take(loaded) {
        let path = name.strip_prefix(PREFIX).unwrap_or(&name);
        let Some((module, leaf)) = path.rsplit_once('.').filter(|_| !path.contains(".lora_")) else {
            loaded.insert(name, value);
            continue;
        };
        if !is_float(value.dtype()) {
            return Err(format!("\"{name}\" is {:?}, expected floating-point numbers", value.dtype()));
        }
        let base = module.strip_suffix(".base_layer");
        let saved = config.saved.names.iter().filter(|end| ends_with(module, end)).collect::<Vec<_>>();
        // PEFT trains a copy of a saved module; other tensors are loaded into the model itself.
        let shared = base.is_some() || saved.is_empty() || config.saved.ensure_weight_tying;
        missing.retain(|end| !saved.contains(end));
        whole.insert(format!("{}.{leaf}", base.unwrap_or(module)), WholeModule { value, shared });
    }
    match missing.first() {
        None => Ok(whole),
        Some(module) => Err(format!("{CONFIG} names \"{module}\" in modules_to_save, but it has no tensors")),
    }
}

/// Groups tensors by layer.
fn layers(loaded: Tensors, config: &PeftConfig) -> Outcome<BTreeMap<String, AdapterLayer>> {
    let mut problems = Vec::new();
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let is_adalora = config.is_adalora;
    for (name, tensor) in loaded {
        let path = name.strip_prefix(PREFIX).unwrap_or(&name);
        let matrix = |letter| {
            let (leaf, weight) = (format!(".lora_{letter}"), if is_adalora { "" } else { ".weight" });
            path.strip_suffix(&format!("{leaf}{weight}"))
        };
        if let Some(path) = matrix('A') {
            groups.entry(path.to_owned()).or_default().a = Some(tensor);
        } else if let Some(path) = matrix('B') {
            groups.entry(path.to_owned()).or_default().b = Some(tensor);
        } else if let Some(path) = matrix('E').filter(|_| is_adalora) {
            groups.entry(path.to_owned()).or_default().e = Some(tensor);
        } else if let Some(path) = MAGNITUDES.iter().find_map(|leaf| path.strip_suffix(leaf)) {
            groups.entry(path.to_owned()).or_default().m = Some(tensor);
        } else {
            problems.push(format!("tensor \"{name}\" {}", unknown(path)));
        }
    }
    let mut layers = BTreeMap::new();
    for (path, group) in groups {
        match layer(&path, group, config) {
            Ok(layer) => layers.extend(layer.map(|layer| (path, layer))),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(layers) } else { Err(weights::summarize(&problems)) }
}

/// Why the tensor at `path` is not supported.
fn unknown(path: &str) -> &'static str {
    if path.contains(".lora_embedding_") {
        "adapts an embedding, which is not supported"
    } else if path.ends_with(".lora_B.bias") {
        "is a bias of B (lora_bias), which is not supported"
    } else {
        "belongs to no kind of adapter that is supported"
    }
}

/// Tensors of one layer.
#[derive(Default)]
struct Group {
    a: Option<Array>,
    b: Option<Array>,
    /// Singular values, `[rank, 1]`.
    e: Option<Array>,
    /// Magnitude, `[out]`.
    m: Option<Array>,
}

/// Builds a layer; `None` if its rank is 0.
fn layer(path: &str, group: Group, config: &PeftConfig) -> Outcome<Option<AdapterLayer>> {
    let Group { a: Some(mut a), b: Some(b), e, m } = group else {
        return Err(format!("\"{path}\" has only one of lora_A and lora_B"));
    };
    if m.is_some() != config.use_dora {
        let (found, said) = (if m.is_some() { "a" } else { "no" }, config.use_dora);
        return Err(format!("\"{path}\" has {found} magnitude, but {CONFIG} says use_dora: {said}"));
    }
    if a.ndim() != 2 || b.ndim() != 2 {
        return Err(format!("\"{path}\" has matrices of shapes {:?} and {:?}", a.shape(), b.shape()));
    }
    if !config.targets(path)? {
        return Err(format!("\"{path}\" is none of the layers that {CONFIG} names in target_modules"));
    }
    let (rank, scale) = config.shape(path)?;
    if config.is_adalora {
        let ranks = a.dim(0);
        let e = e.filter(|e| e.shape() == [ranks, 1] && is_float(e.dtype()) && is_float(a.dtype()));
        let e =
            e.ok_or_else(|| format!("\"{path}\" has no singular value lora_E for each of {ranks} ranks"))?;
        if u64::from(ranks.unsigned_abs()) > rank || b.dim(1) != ranks {
            let (a, b) = (a.shape(), b.shape());
            return Err(format!("\"{path}\" has matrices {a:?} and {b:?}, but {CONFIG} says init_r: {rank}"));
        }
        if ranks == 0 {
            return Ok(None);
        }
        a = a.multiply(e).map_err(|error| error.to_string())?;
    } else if i64::from(a.dim(0)) != i64::try_from(rank).unwrap_or(-1) {
        return Err(format!("\"{path}\" has rank {}, but {CONFIG} says {rank}", a.dim(0)));
    }
    AdapterLayer::new(path, a.t(), b.t(), m, scale).map(Some)
}

/// Writes `adapter` to `folder`.
pub(super) fn write(folder: &Path, adapter: &Adapter, model: Option<&mut dyn Network>) -> Result<()> {
    let all = model.map(layer_names).transpose()?;
    let mut tensors = Tensors::new();
    for (path, AdapterLayer { a, b, m, .. }) in &adapter.layers {
        tensors.insert(format!("{PREFIX}{path}.lora_A.weight"), a.t());
        tensors.insert(format!("{PREFIX}{path}.lora_B.weight"), b.t());
        if let Some(m) = m {
            tensors.insert(format!("{PREFIX}{path}{}", MAGNITUDES[0]), m.clone());
        }
    }
    for (name, WholeModule { value, .. }) in &adapter.whole {
        let name = match name.rsplit_once('.') {
            Some((path, leaf)) if adapter.layers.contains_key(path) => format!("{path}.base_layer.{leaf}"),
            _ => name.clone(),
        };
        tensors.insert(format!("{PREFIX}{name}"), value.clone());
    }
    if let Some(value) = tied(adapter) {
        // PEFT reads what is tied from either name.
        for name in [EMBEDDING_WEIGHT, HEAD_WEIGHT] {
            tensors.entry(format!("{PREFIX}{name}")).or_insert_with(|| value.clone());
        }
    }
    // The format that PEFT writes for PyTorch tensors.
    tensors::write(&folder.join(TENSORS), &tensors, &[("format", "pt")])?;
    let config = configuration(adapter, all.as_deref());
    atomic::write_text(&folder.join(CONFIG), &format!("{config:#}\n"))
}

/// Returns the configuration of `adapter`, with keys known to every version of PEFT.
fn configuration(adapter: &Adapter, all: Option<&[String]>) -> Value {
    let ranks = adapter.layers.values().map(|layer| layer.rank() as f32);
    let rank = most_frequent(ranks).unwrap_or(8.0) as i32;
    let alphas = adapter.layers.values().map(|layer| alpha(layer) as f32);
    let common = most_frequent(alphas).unwrap_or(8.0);
    let mut usual = 0.0;
    let (mut rank_pattern, mut alpha_pattern) = (Map::new(), Map::new());
    for (path, layer) in &adapter.layers {
        if layer.rank() != rank {
            rank_pattern.insert(path.clone(), layer.rank().into());
        }
        if (alpha(layer) as f32).total_cmp(&common).is_eq() {
            usual = alpha(layer);
        } else {
            alpha_pattern.insert(path.clone(), number(alpha(layer)));
        }
    }
    let modules = adapter.whole.keys().filter_map(|name| Some(name.rsplit_once('.')?.0));
    let saved: BTreeSet<&str> = modules.filter(|&path| !adapter.layers.contains_key(path)).collect();
    let mut json = json!({
        "peft_type": "LORA",
        "task_type": (!adapter.is_image_text).then_some("CAUSAL_LM"),
        "base_model_name_or_path": adapter.base_model,
        "revision": null,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": number(usual),
        "lora_dropout": decimal(adapter.dropout),
        "target_modules": targets(adapter, all),
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "use_rslora": false,
        "use_dora": adapter.kind() == DORA,
        "bias": "none",
        "fan_in_fan_out": false,
        "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
        "layers_to_transform": null,
        "layers_pattern": null,
        "init_lora_weights": true,
        "auto_mapping": null,
    });
    if tied(adapter).is_some() {
        json["ensure_weight_tying"] = true.into();
    }
    json
}

/// The embeddings, if they are replaced together with the head that is tied to them.
fn tied(adapter: &Adapter) -> Option<&Array> {
    let shared = |name: &&str| adapter.whole.get(*name).is_some_and(|module| module.shared);
    let name = [EMBEDDING_WEIGHT, HEAD_WEIGHT].into_iter().find(shared)?;
    adapter.whole.get(name).filter(|_| !adapter.layers.contains_key(HEAD)).map(|module| &module.value)
}

/// `scale · rank`, rounded if an integer gives the same scale.
fn alpha(layer: &AdapterLayer) -> f64 {
    let rank = f64::from(layer.rank());
    let exact = f64::from(layer.scale) * rank;
    let whole = exact.round();
    if ((whole / rank) as f32).total_cmp(&layer.scale).is_eq() { whole } else { exact }
}

/// The shortest decimal that equals `x` in float32: `0.1`, not `0.10000000149`.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}

fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { (x as i64).into() } else { x.into() }
}

/// Names of the target modules: last parts of key paths, such as `q_proj`, if they select exactly the layers
/// of `adapter` out of `all`; otherwise whole key paths.
fn targets(adapter: &Adapter, all: Option<&[String]>) -> Vec<String> {
    let last = |path: &String| path.rsplit('.').next().unwrap_or(path).to_owned();
    let short: BTreeSet<String> = adapter.layers.keys().map(last).collect();
    let chosen = |all: &[String]| all.iter().filter(|path| short.contains(&last(path))).count();
    match all {
        Some(all) if chosen(all) == adapter.layers.len() => short.into_iter().collect(),
        _ => adapter.layers.keys().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(layers: &[(&str, i32, f32)]) -> Adapter {
        let layer = |&(path, rank, scale): &(&str, i32, f32)| {
            let a = Array::zeros::<f32>(&[6, rank]).unwrap();
            let b = Array::zeros::<f32>(&[rank, 4]).unwrap();
            (path.to_owned(), AdapterLayer { a, b, m: None, scale })
        };
        Adapter { layers: layers.iter().map(layer).collect(), dropout: 0.1, ..Adapter::default() }
    }

    #[test]
    fn a_configuration_says_what_the_layers_are() {
        let adapter = adapter(&[
            ("model.layers.0.mlp.up_proj", 8, 2.0),
            ("model.layers.1.mlp.up_proj", 8, 2.0),
            ("model.layers.1.mlp.down_proj", 3, 1.0 / 3.0),
        ]);
        let json = configuration(&adapter, None);
        assert_eq!(json["r"], 8);
        assert_eq!(json["lora_alpha"], 16);
        assert_eq!(json["rank_pattern"], json!({"model.layers.1.mlp.down_proj": 3}));
        assert_eq!(json["alpha_pattern"], json!({"model.layers.1.mlp.down_proj": 1}));
        let config = PeftConfig::parse(&json).unwrap();
        for (path, layer) in &adapter.layers {
            assert_eq!(config.shape(path), Ok((layer.rank() as u64, layer.scale)), "{path}");
            assert_eq!(config.targets(path), Ok(true));
        }
    }

    #[test]
    fn targets_are_as_short_as_the_other_layers_allow() {
        let adapter = adapter(&[("model.layers.0.a.x", 1, 1.0), ("model.layers.1.a.x", 1, 1.0)]);
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let whole = names(&["model.layers.0.a.x", "model.layers.1.a.x"]);
        let all = names(&["model.layers.0.a.x", "model.layers.0.a.y", "model.layers.1.a.x"]);
        assert_eq!(targets(&adapter, Some(&all)), ["x"]);
        let more = names(&["model.layers.0.a.x", "model.layers.1.a.x", "model.layers.1.b.x"]);
        assert_eq!(targets(&adapter, Some(&more)), whole);
        assert_eq!(targets(&adapter, None), whole);
    }
}
