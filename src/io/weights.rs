//! Model weights in Hugging Face format.
//!
//! Loading is strict: every parameter must be present with its shape, and nothing else. Weights get one dtype, as in
//! transformers: a few tensors stored in another one would change that of all activations.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mlx_rs::{Array, Dtype};

use super::quantization::{QuantizationConfig, Repacked, repack};
use super::tensors::{self, Reader};
use super::{bitmask, shards};
use crate::kernels::quantized::Format;
use crate::nn::Network;
use crate::nn::quantized::is_float;
use crate::params::Tensors;
use crate::{Error, Result, kernels};

pub use super::shards::FILE;
pub(crate) use super::summary::summarize;

/// Loads the weights of `folder` into `model`, cast to `dtype`, or else to the dtype of most of them. The tensors of
/// quantized weights always keep their dtype. `name_of` returns the name of a stored tensor in the model; tensors
/// without one are not read.
///
/// # Errors
/// A folder without weights; missing or unexpected tensors, or tensors of the wrong shape, listed.
pub fn load(
    folder: &Path,
    model: &mut dyn Network,
    dtype: Option<Dtype>,
    quantization: &QuantizationConfig,
    name_of: fn(&str) -> Option<String>,
) -> Result<()> {
    load_files(folder, &shards::files(folder)?, "config.json", model, dtype, quantization, name_of)
}

/// As [`load`], of the weight `files` in `folder`, which the file `description` describes.
///
/// # Errors
/// As those of [`load`].
pub fn load_files(
    folder: &Path,
    files: &[PathBuf],
    description: &str,
    model: &mut dyn Network,
    dtype: Option<Dtype>,
    quantization: &QuantizationConfig,
    name_of: fn(&str) -> Option<String>,
) -> Result<()> {
    let contents = Contents::of(files, |name| name_of(name).is_some_and(|name| !model.computes(&name)))?;
    let dtype = dtype.or_else(|| contents.prevailing_dtype());
    let mut loaded = Tensors::new();
    // Formats of layers that may be quantized.
    let mut formats = BTreeMap::new();
    // Tensors of matrices whose other tensors may be in the next file.
    let mut unpaired = Tensors::new();
    for path in files {
        let named =
            |error: &dyn std::fmt::Display| Error::ModelLoading(format!("{}: {error}", path.display()));
        let mut stored = Reader::open(path)?;
        stored.retain(|name| name_of(name).is_some());
        let mut repacked = BTreeMap::new();
        let stored: Box<dyn Iterator<Item = Result<(String, Array)>>> = match quantization.gptq_awq() {
            None if quantization.is_bitmask() => {
                unpaired.extend(stored.by_ref().collect::<Result<Tensors>>()?);
                let tensors = bitmask::decompress(&mut unpaired).map_err(|error| named(&error))?;
                Box::new(tensors.into_iter().map(Ok))
            }
            None => Box::new(stored),
            Some(config) => {
                unpaired.extend(stored.by_ref().collect::<Result<Tensors>>()?);
                let Repacked { tensors, formats } =
                    repack(&mut unpaired, &contents.names, config).map_err(|error| named(&error))?;
                repacked = formats;
                Box::new(tensors.into_iter().map(Ok))
            }
        };
        let cast = |name: &str, array: Array| match dtype {
            _ if !is_float(array.dtype()) => Err(named(&format!(
                "tensor \"{name}\" is {:?}, expected Float32, Float16 or Bfloat16; config.json names no \
                 quantization of it",
                array.dtype()
            ))),
            Some(dtype) if !model.keeps_dtype(name) => Ok(array.as_dtype(dtype)?),
            _ => Ok(array),
        };
        // Tensors of layers that may be quantized, which shows only at the end of the file.
        let mut undecided = Tensors::new();
        for tensor in stored {
            let (stored_name, array) = tensor?;
            let Some(name) = name_of(&stored_name) else { continue };
            if model.computes(&name) {
                if !model.agrees(&name, &array)? {
                    log::warn!(
                        "{}: \"{stored_name}\" is not what config.json gives, which counts: is a setting missing there?",
                        path.display()
                    );
                }
                continue;
            }
            let parts = model
                .map_weight(&name, array)
                .map_err(|error| named(&format!("tensor \"{stored_name}\": {}", error.what())))?;
            let repacked = repacked.get(layer(&stored_name)).copied();
            for (name, array) in parts {
                if let Some(format) =
                    repacked.or_else(|| quantization.format_of(layer(&name), layer(&stored_name)))
                {
                    formats.insert(layer(&name).to_owned(), format);
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
        if quantization.is_bitmask() {
            return Err(Error::ModelLoading(format!("{}: {}", folder.display(), bitmask::missing(name))));
        }
        return Err(Error::ModelLoading(format!(
            "{}: \"{name}\" lacks the other parts of its matrix: qweight, qzeros, scales and, where inputs are \
             ordered, g_idx",
            folder.display()
        )));
    }
    if quantization.gptq_awq().is_some() {
        drop_empty_biases(model, &mut loaded)?;
    }
    fill(folder, description, model, loaded, &formats)
}

/// Fills `model` with all tensors of a checkpoint at `place`, which `description` describes; `formats` are those of
/// layers that may be quantized.
///
/// # Errors
/// Missing or unexpected tensors, or tensors of the wrong shape, listed.
pub(super) fn fill(
    place: &Path,
    description: &str,
    model: &mut dyn Network,
    mut loaded: Tensors,
    formats: &BTreeMap<String, Format>,
) -> Result<()> {
    settle_tied(model, &mut loaded)?;
    let misfit = |problem| {
        Error::ModelLoading(format!("{} does not fit its {description}: {problem}", place.display()))
    };
    model.visit_quantizable(&mut |path, weight| match formats.get(path) {
        Some(&format) if loaded.contains_key(&format!("{path}.scales")) => {
            weight.allocate(format).map_err(|error| misfit(format!("\"{path}\": {}", error.what())))
        }
        _ => Ok(()),
    })?;
    assign(model, loaded).map_err(misfit)?;
    model.visit_quantizable(&mut |path, weight| {
        weight.validate().map_err(|error| misfit(format!("\"{path}\": {}", error.what())))
    })
}

/// What the headers of weight files tell.
struct Contents {
    /// Names of all tensors.
    names: BTreeSet<String>,
    /// Numbers of each dtype.
    numbers: Vec<(Dtype, usize)>,
}

impl Contents {
    /// Reads the headers of `files`, for tensors that are parameters.
    fn of(files: &[PathBuf], is_parameter: impl Fn(&str) -> bool) -> Result<Self> {
        let dtypes = [
            (safetensors::Dtype::F32, Dtype::Float32),
            (safetensors::Dtype::F16, Dtype::Float16),
            (safetensors::Dtype::BF16, Dtype::Bfloat16),
        ];
        let mut names = BTreeSet::new();
        let mut numbers = dtypes.map(|(_, dtype)| (dtype, 0));
        for path in files {
            let mut reader = Reader::open(path)?;
            reader.retain(&is_parameter);
            for (name, stored, size) in reader.contents() {
                names.insert(name.to_owned());
                if let Some(i) = dtypes.iter().position(|(theirs, _)| *theirs == stored) {
                    numbers[i].1 += size;
                }
            }
        }
        Ok(Self { names, numbers: numbers.into() })
    }

    /// The dtype of most numbers; `None` if all are quantized.
    fn prevailing_dtype(&self) -> Option<Dtype> {
        let (dtype, count) = self.numbers.iter().max_by_key(|(_, count)| *count)?;
        (*count > 0).then_some(*dtype)
    }
}

/// Drops tensors of `loaded` that are [tied](Network::tied_to) to another one and equal to it. As in transformers,
/// the other one may be stored under this name only, and those that differ are parameters of their own.
fn settle_tied(model: &mut dyn Network, loaded: &mut Tensors) -> Result<()> {
    let pairs: Vec<(String, String)> =
        loaded.keys().filter_map(|name| Some((name.clone(), model.tied_to(name)?))).collect();
    if pairs.is_empty() {
        return Ok(());
    }
    if pairs.iter().all(|(_, other)| !loaded.contains_key(other)) {
        for (name, other) in pairs {
            if let Some(array) = loaded.remove(&name) {
                loaded.insert(other, array);
            }
        }
        return Ok(());
    }
    for (name, other) in &pairs {
        if !loaded.get(other).map_or(Ok(false), |other| is_equal(&loaded[name], other))? {
            return Ok(model.untie()?);
        }
    }
    for (name, _) in pairs {
        loaded.remove(&name);
    }
    Ok(())
}

/// Whether two arrays are the same numbers.
fn is_equal(a: &Array, b: &Array) -> Result<bool> {
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        return Ok(false);
    }
    let equal = a.eq(b)?.all(None)?;
    kernels::eval([&equal])?;
    Ok(equal.item_exact::<bool>())
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

/// Assigns `loaded` to the parameters of `model`, all of them or none.
///
/// # Errors
/// The tensors that are missing, unexpected or of the wrong shape.
pub(crate) fn assign(model: &mut dyn Network, mut loaded: Tensors) -> std::result::Result<(), String> {
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

/// Saves all parameters of `model` to `folder`, with floating-point tensors cast to `dtype` if given.
///
/// # Errors
/// No space or no permission.
pub fn save(folder: &Path, model: &dyn Network, dtype: Option<Dtype>) -> Result<()> {
    // transformers refuses files without a format.
    tensors::write(&folder.join(FILE), &exported(model, dtype)?, &[("format", "pt")])
}

/// As [`save`], with matrices stored in the format sparse-bitmask where that is smaller.
///
/// # Errors
/// Those of `save`.
pub(super) fn save_bitmask(folder: &Path, model: &dyn Network) -> Result<()> {
    let tensors = bitmask::compress(exported(model, None)?)?;
    tensors::write(&folder.join(FILE), &tensors, &[("format", "pt")])
}

/// The tensors of a checkpoint of `model`.
fn exported(model: &dyn Network, dtype: Option<Dtype>) -> Result<Tensors> {
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
    Ok(model.export(parameters)?)
}
