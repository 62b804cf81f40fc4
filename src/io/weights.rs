//! Model weights in Hugging Face format: `model.safetensors`, or shards with an index.
//!
//! Loading is strict: every parameter must be present with its shape, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mlx_rs::{Array, Dtype};
use serde_json::Value;

use super::quantization::{QuantizationConfig, repack};
use super::tensors::{self, Reader};
use crate::nn::Network;
use crate::nn::quantized::is_float;
use crate::params::Tensors;
use crate::{Error, Result, kernels};

/// Name of a checkpoint of a single file.
pub const FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Loads the weights of `folder` into `model`, cast to `dtype` if given. The tensors of quantized weights
/// always keep their dtype.
///
/// # Errors
/// A folder without weights; missing or unexpected tensors, or tensors of the wrong shape, listed.
pub fn load(
    folder: &Path,
    model: &mut dyn Network,
    dtype: Option<Dtype>,
    quantization: &QuantizationConfig,
) -> Result<()> {
    let mut loaded = Tensors::new();
    // Tensors of matrices whose other tensors may be in the next file.
    let mut unpaired = Tensors::new();
    for path in files(folder)? {
        let named =
            |error: &dyn std::fmt::Display| Error::ModelLoading(format!("{}: {error}", path.display()));
        let mut stored = Reader::open(&path)?;
        let stored: Box<dyn Iterator<Item = Result<(String, Array)>>> = match quantization.gptq_awq() {
            None => Box::new(stored),
            Some(format) => {
                unpaired.extend(stored.by_ref().collect::<Result<Tensors>>()?);
                let ready = repack(&mut unpaired, format).map_err(|error| named(&error))?;
                Box::new(ready.into_iter().map(Ok))
            }
        };
        let cast = |name: &str, array: Array| match dtype {
            _ if !is_float(array.dtype()) => Err(named(&format!(
                "tensor \"{name}\" is {:?}, expected Float32, Float16 or Bfloat16",
                array.dtype()
            ))),
            Some(dtype) => Ok(array.as_dtype(dtype)?),
            None => Ok(array),
        };
        // Tensors of layers that may be quantized, which shows only at the end of the file.
        let mut undecided = Tensors::new();
        for tensor in stored {
            let (name, array) = tensor?;
            if model.ignores(&name) {
                continue;
            }
            let parts = model
                .map_weight(&name, array)
                .map_err(|error| named(&format!("tensor \"{name}\": {}", error.what())))?;
            for (name, array) in parts {
                if quantization.format_of(layer(&name)).is_some() {
                    undecided.insert(name, array);
                } else {
                    let array = cast(&name, array)?;
                    // Evaluated now, so that the stored copy is freed before the next tensor is read.
                    kernels::eval([&array])?;
                    loaded.insert(name, array);
                }
            }
        }
        let is_packed = |name: &str| undecided.contains_key(&format!("{}.scales", layer(name)));
        let packed: BTreeSet<_> = undecided.keys().filter(|name| is_packed(name)).cloned().collect();
        for (name, array) in undecided {
            let array = if packed.contains(&name) { array } else { cast(&name, array)? };
            kernels::eval([&array])?;
            loaded.insert(name, array);
        }
    }
    if let Some(name) = unpaired.keys().next() {
        return Err(Error::ModelLoading(format!(
            "{}: \"{name}\" lacks the other parts of its matrix: qweight, qzeros, scales and, where inputs are \
             ordered, g_idx",
            folder.display()
        )));
    }
    if quantization.gptq_awq().is_some() {
        drop_empty_biases(model, &mut loaded)?;
    }
    let misfit = |problem| {
        Error::ModelLoading(format!("{} does not fit its config.json: {problem}", folder.display()))
    };
    model.visit_quantizable(&mut |path, weight| match quantization.format_of(path) {
        Some(format) if loaded.contains_key(&format!("{path}.scales")) => {
            weight.allocate(format).map_err(|error| misfit(format!("\"{path}\": {}", error.what())))
        }
        _ => Ok(()),
    })?;
    assign(model, loaded).map_err(misfit)?;
    model.visit_quantizable(&mut |path, weight| {
        weight.validate().map_err(|error| misfit(format!("\"{path}\": {}", error.what())))
    })
}

/// Key path of the layer that the parameter `name` belongs to.
fn layer(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(layer, _)| layer)
}

/// Removes biases of zeros, which `AutoGPTQ` stores for layers without a bias.
fn drop_empty_biases(model: &dyn Network, loaded: &mut Tensors) -> Result<()> {
    let parameters = model.parameters().flatten();
    let spare: Vec<String> = loaded
        .keys()
        .filter(|name| name.rsplit('.').next() == Some("bias") && !parameters.contains_key(name.as_str()))
        .cloned()
        .collect();
    for name in spare {
        let empty = loaded[&name].eq(Array::from_f32(0.0))?.all(None)?;
        kernels::eval([&empty])?;
        if empty.item_exact::<bool>() {
            loaded.remove(&name);
        }
    }
    Ok(())
}

/// Returns the sorted paths of the weight files of `folder`.
///
/// # Errors
/// A folder without weights, or a broken index.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join(FILE);
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX);
    let text = fs::read_to_string(&index)
        .map_err(|_| Error::ModelLoading(format!("{} has neither {FILE} nor {INDEX}", folder.display())))?;
    let broken = |why: String| Error::ModelLoading(format!("{}: {why}", index.display()));
    let json: Value = serde_json::from_str(&text).map_err(|e| broken(format!("not valid JSON: {e}")))?;
    let map = json["weight_map"].as_object().ok_or_else(|| broken("no \"weight_map\"".into()))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        match file.as_str() {
            // A plain name: an index must not reach outside its folder.
            Some(name) if Path::new(name).file_name().is_some_and(|plain| plain == name) => {
                names.insert(name)
            }
            _ => {
                return Err(broken(format!("\"{tensor}\" lies in {file}, which is not a file name")));
            }
        };
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Assigns `loaded` to the parameters of `model`, all of them or none.
fn assign(model: &mut dyn Network, mut loaded: Tensors) -> std::result::Result<(), String> {
    let mut parameters = model.parameters_mut().flatten();
    let mut problems = Vec::new();
    let mut names: Vec<_> = parameters.keys().cloned().collect();
    names.sort();
    for name in &names {
        let expected = parameters[name].shape();
        match loaded.get(&**name) {
            None => problems.push(format!("missing tensor \"{name}\" {expected:?}")),
            Some(array) if array.shape() != expected => {
                problems.push(format!("\"{name}\" has shape {:?}, expected {expected:?}", array.shape()));
            }
            Some(_) => {}
        }
    }
    let unexpected = loaded.keys().filter(|name| !parameters.contains_key(name.as_str()));
    problems.extend(unexpected.map(|name| format!("unexpected tensor \"{name}\"")));
    if !problems.is_empty() {
        return Err(summarize(&problems));
    }
    for name in &names {
        if let (Some(slot), Some(array)) = (parameters.get_mut(name), loaded.remove(&**name)) {
            **slot = array;
        }
    }
    Ok(())
}

/// Joins the first few of `problems`, with the number of the others.
pub(crate) fn summarize(problems: &[String]) -> String {
    const SHOWN: usize = 5;
    let text = problems.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    match problems.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

/// Saves all parameters of `model` to `folder`, with floating-point tensors cast to `dtype` if given.
///
/// # Errors
/// No space or no permission.
pub fn save(folder: &Path, model: &dyn Network, dtype: Option<Dtype>) -> Result<()> {
    let cast = |x: &mlx_rs::Array| match dtype {
        Some(dtype) if is_float(x.dtype()) => x.as_dtype(dtype),
        _ => Ok(x.clone()),
    };
    let parameters: Tensors = model
        .parameters()
        .flatten()
        .into_iter()
        .map(|(name, x)| Ok((name.to_string(), cast(x)?)))
        .collect::<Result<_>>()?;
    let tensors = model.export(parameters)?;
    // transformers refuses files without a format.
    tensors::write(&folder.join(FILE), &tensors, &[("format", "pt")])
}
