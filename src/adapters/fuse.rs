//! Merging an adapter into a language model on disk.
//!
//! Before anything is written, the outputs of the merged model are compared: rounding to the dtype of the
//! checkpoint, and even more so to a few bits, may erase what the adapter has learned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mlx_rs::Dtype;
use mlx_rs::module::ModuleParameters as _;
use serde::Serialize;

use super::adapter::Adapter;
use super::fidelity::{Fidelity, Probe};
use super::formats::{self, StoredAdapter};
use super::merge::{merge_at_nonzeros, merge_weights};
use super::names::layer_names;
use super::whole;
use crate::io::output::{CHECKPOINTS, IfExists, OutputFolder};
use crate::io::sparsity::{copy_report, pruned_layers};
use crate::io::{checkpoint, folder, weights};
use crate::models::{self, Model};
use crate::nn::Network;
use crate::nn::quantized::is_float;
use crate::{Error, Result};

/// What was merged, and how close the result is. Differences are root mean squares over the logits of a few
/// sequences.
#[derive(Debug, Clone, Serialize)]
pub struct FuseReport {
    /// Number of merged layers.
    pub layers: usize,
    /// Whether the result has quantized weights.
    pub quantized: bool,
    /// Dtype of all weights that are not quantized.
    pub dtype: String,
    /// Difference between the model with and without the adapter.
    pub effect: f64,
    /// Difference between the merged model and the model with the adapter.
    pub error: f64,
    /// Fraction of the effect that the merged model has.
    pub kept: f64,
}

/// Merges the adapter in `adapter_path` into the model in `model_path` and saves the result to `output`, in
/// the dtype of the model. Quantized weights are quantized again in the same format; with `dequantize`, all
/// weights become dense. Zeros of pruned layers stay.
///
/// # Errors
/// A model or adapter that cannot be read, an adapter that does not fit the model, a result that differs more
/// than rounding explains or has lost the adapter, or a folder that cannot be written.
pub fn fuse(
    model_path: &Path,
    adapter_path: &Path,
    output: &Path,
    dequantize: bool,
    existing: IfExists,
) -> Result<FuseReport> {
    for source in [model_path, adapter_path] {
        if fs::canonicalize(output).is_ok_and(|to| fs::canonicalize(source).is_ok_and(|from| from == to)) {
            return Err(Error::Config(format!(
                "output is the folder that is read, {}: choose another one",
                output.display()
            )));
        }
    }
    let mut results = vec![weights::FILE, "config.json"];
    results.extend(formats::FILES);
    OutputFolder::check(output, &results, CHECKPOINTS, existing)?;
    if !dequantize {
        check_requantizable(model_path)?;
    }
    let mut model = models::load(model_path, None, None)?;
    let adapter = match formats::read(adapter_path, Some(model.as_ref()))?.0 {
        StoredAdapter::LowRank(adapter) => adapter,
        other => {
            let what =
                if matches!(other, StoredAdapter::Full(_)) { "plain parameters" } else { "virtual tokens" };
            return Err(Error::Config(format!(
                "{} holds {what}, not low-rank matrices: there is nothing to merge",
                adapter_path.display()
            )));
        }
    };
    let report = merge(model.as_mut(), &adapter, &pruned_layers(model_path)?, dequantize)
        .map_err(|error| with_path(error, adapter_path))?;
    let output = OutputFolder::open(output, &results, CHECKPOINTS, existing)?;
    folder::save(model_path, output.folder(), model.as_ref())?;
    copy_report(model_path, output.folder())?;
    Ok(report)
}

/// Checks that quantized weights can be written in the format of `config.json`.
fn check_requantizable(model: &Path) -> Result<()> {
    let config = checkpoint::config(model)?;
    match config["quantization_config"]["quant_method"].as_str() {
        Some(method) if config.get("quantization").is_none() => Err(Error::Config(format!(
            "{} is quantized as \"{method}\", in which weights cannot be written again: set dequantize",
            model.display()
        ))),
        _ => Ok(()),
    }
}

/// Prefixes the message of `error` with the path of the adapter.
fn with_path(error: Error, adapter: &Path) -> Error {
    match error {
        Error::ModelLoading(problem) => Error::ModelLoading(format!("{}: {problem}", adapter.display())),
        Error::Training(problem) => Error::Training(format!("{}: {problem}", adapter.display())),
        other => other,
    }
}

/// Merges `adapter` into `model` in place, but for the zeros of the layers `pruned`, and compares the outputs before and
/// after.
///
/// # Errors
/// Those of [`fuse`], except for files.
pub fn merge(
    model: &mut Model,
    adapter: &Adapter,
    pruned: &BTreeSet<String>,
    dequantize: bool,
) -> Result<FuseReport> {
    let misfit = |problem| Error::ModelLoading(format!("the adapter does not fit the model: {problem}"));
    adapter.check(model).map_err(misfit)?;
    let dtype = model.dtype();
    // Activations in f32, so that the only differences are those of the weights.
    let dtypes = cast_to_float32(model)?;
    let mut probe = Probe::new(model)?;
    adapter.attach(model).map_err(misfit)?;
    // What is lost at zeros is meant to be: the rest is compared.
    let wide = merge_at_nonzeros(model, pruned)?;
    probe.read_adapted(model)?;
    cast(model, |name| wide.get(name).copied())?;
    let bits = merge_weights(model, adapter, dequantize.then_some(dtype))?;
    let fidelity = probe.compare(model, adapter, bits)?;
    fidelity.check(bits)?;
    whole::keep(model);
    cast(model, |name| dtypes.get(name).copied())?;
    let mut quantized = false;
    model.visit_quantizable(&mut |_, weight| {
        quantized |= weight.format.is_some();
        Ok(())
    })?;
    let Fidelity { effect, error, kept, .. } = fidelity;
    let dtype = format!("{dtype:?}").to_lowercase();
    Ok(FuseReport { layers: adapter.layers.len(), quantized, dtype, effect, error, kept })
}

/// Casts all parameters but linear and quantized weights to float32. Returns their former dtypes.
fn cast_to_float32(model: &mut dyn Network) -> Result<BTreeMap<String, Dtype>> {
    let layers: BTreeSet<String> = layer_names(model)?.into_iter().collect();
    let is_matrix = |name: &str| match name.rsplit_once('.') {
        Some((layer, "weight")) => layers.contains(layer),
        Some((_, leaf)) => leaf == "scales" || leaf == "biases",
        None => false,
    };
    let dtypes: BTreeMap<String, Dtype> = model
        .parameters()
        .flatten()
        .into_iter()
        .map(|(name, x)| (name.to_string(), x.dtype()))
        .filter(|(name, dtype)| is_float(*dtype) && !is_matrix(name))
        .collect();
    cast(model, |name| dtypes.contains_key(name).then_some(Dtype::Float32))?;
    Ok(dtypes)
}

/// Casts the parameters for which `dtype` returns one.
fn cast(model: &mut dyn Network, dtype: impl Fn(&str) -> Option<Dtype>) -> Result<()> {
    model.parameters_mut().flatten().into_iter().try_for_each(|(name, slot)| {
        if let Some(dtype) = dtype(&name) {
            *slot = slot.as_dtype(dtype)?;
        }
        Ok(())
    })
}
