//! Merging an adapter into the weights it was trained beside: `W' = W + s·(A·B)ᵀ`
//! ([LoRA](https://arxiv.org/abs/2106.09685), section 4.1), with its rows stretched to their
//! [magnitudes](crate::nn::dora).
//!
//! Before anything is written, the merged model answers for itself: rounding to the checkpoint's number format, and even more
//! so to a few bits, may take away what the adapter has learned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mlx_rs::module::ModuleParameters as _;
use mlx_rs::{Array, Dtype};
use serde::Serialize;

use super::adapter::Adapter;
use super::formats::{self, StoredAdapter};
use super::merge::{Rounding, merge_weights};
use super::names::layer_names;
use crate::io::output::{CHECKPOINTS, IfExists, OutputFolder};
use crate::io::{config, folder, weights};
use crate::models::{self, LanguageModel};
use crate::nn::Network;
use crate::nn::quantized::is_float;
use crate::{Error, Result, kernels, rng};

/// Texts and tokens per text that both models read.
const PROBE_SHAPE: [i32; 2] = [2, 16];

/// What was merged, and how close the result is. Differences are root mean squares over the logits of a few texts.
#[derive(Debug, Clone, Serialize)]
pub struct FuseReport {
    /// Layers that were merged.
    pub layers: usize,
    /// Whether matrices of the result are quantized.
    pub quantized: bool,
    /// Number format of the result, beside quantized matrices.
    pub dtype: String,
    /// Difference that the adapter makes to the model.
    pub effect: f64,
    /// Difference between the merged model and the model with the adapter.
    pub error: f64,
    /// Share of `effect` that the merged model has.
    pub kept: f64,
}

/// Merges the adapter in `adapter_path` into the model in `model_path` and writes the result to `output`, in the number
/// format of the model. Quantized matrices are quantized again in the same way; with `dequantize`, all matrices
/// become dense.
///
/// # Errors
/// A model or adapter that cannot be read; an adapter that does not fit the model; a result that is too far from model and
/// adapter for its number format, or in which the adapter is lost; a folder that cannot be written.
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
    if existing == IfExists::Fail {
        OutputFolder::check(output, &results, CHECKPOINTS)?;
    }
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
    let report =
        merge(model.as_mut(), &adapter, dequantize).map_err(|error| with_path(error, adapter_path))?;
    let output = OutputFolder::open(output, &results, CHECKPOINTS, existing)?;
    folder::save(model_path, output.folder(), model.as_ref())?;
    Ok(report)
}

/// Whether the packed matrices of a checkpoint can be written again as its configuration describes them.
fn check_requantizable(model: &Path) -> Result<()> {
    let config = config::read(model)?;
    match config["quantization_config"]["quant_method"].as_str() {
        Some(method) if config.get("quantization").is_none() => Err(Error::Config(format!(
            "{} is quantized as \"{method}\", in which weights cannot be written again: set dequantize",
            model.display()
        ))),
        _ => Ok(()),
    }
}

fn with_path(error: Error, adapter: &Path) -> Error {
    match error {
        Error::ModelLoading(problem) => Error::ModelLoading(format!("{}: {problem}", adapter.display())),
        Error::Training(problem) => Error::Training(format!("{}: {problem}", adapter.display())),
        other => other,
    }
}

/// Merges `adapter` into `model` in place.
///
/// # Errors
/// As [`fuse`].
pub fn merge(model: &mut dyn LanguageModel, adapter: &Adapter, dequantize: bool) -> Result<FuseReport> {
    let dtype = model.dtype();
    // Activations in f32, so that the only differences are those of the weights.
    let dtypes = cast_to_float32(model)?;
    let ids = probe_ids(model.vocab_size());
    let base = logits(model, &ids)?;
    let misfit = |problem| Error::ModelLoading(format!("the adapter does not fit the model: {problem}"));
    adapter.attach(model).map_err(misfit)?;
    let wanted = logits(model, &ids)?;
    let coarsest = merge_weights(model, adapter, dequantize.then_some(dtype))?;
    let merged = logits(model, &ids)?;
    let mut report = FuseReport {
        layers: adapter.layers.len(),
        quantized: false,
        dtype: format!("{dtype:?}").to_lowercase(),
        effect: rms_difference(&wanted, &base),
        error: rms_difference(&merged, &wanted),
        kept: kept_fraction(&base, &wanted, &merged),
    };
    check_fidelity(&coarsest, &report, standard_deviation(&wanted))?;
    cast(model, |name| dtypes.get(name).copied())?;
    model.visit_quantizable(&mut |_, weight| {
        report.quantized |= weight.format.is_some();
        Ok(())
    })?;
    Ok(report)
}

/// Whether `report` is what `rounding` explains, for logits that spread by `spread`.
///
/// # Errors
/// The figures.
fn check_fidelity(rounding: &Rounding, report: &FuseReport, spread: f64) -> Result<()> {
    let FuseReport { effect, error, kept, .. } = *report;
    if !error.is_finite() || !effect.is_finite() {
        return Err(Error::Training("the logits of the model are no numbers".into()));
    }
    // Errors of layers add up like those of independent draws.
    let tolerance = 4.0 * rounding.step * (rounding.layers as f64).sqrt() * spread;
    if rounding.bits.is_none() && error > tolerance {
        return Err(Error::Training(format!(
            "the merged model differs from model and adapter by {error:.2e}, more than the {tolerance:.2e} that \
             rounding explains; nothing was written"
        )));
    }
    if 2.0 * error > effect {
        let format = match rounding.bits {
            Some(bits) => format!("{bits} bits: set dequantize, or keep the adapter beside the model"),
            None => "the model's number format: keep the adapter beside the model".into(),
        };
        return Err(Error::Training(format!(
            "merging would lose the adapter: its effect on the logits is {effect:.2e}, the error of rounding \
             {error:.2e}, and {:.0}% of the effect would be left; it is too small for {format}",
            100.0 * kept.clamp(0.0, 1.0)
        )));
    }
    Ok(())
}

/// Casts everything but the matrices of linear layers and packed ones to f32; what it was before.
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

/// Casts the parameters for which there is a `dtype`.
fn cast(model: &mut dyn Network, dtype: impl Fn(&str) -> Option<Dtype>) -> Result<()> {
    model.parameters_mut().flatten().into_iter().try_for_each(|(name, slot)| {
        if let Some(dtype) = dtype(&name) {
            *slot = slot.as_dtype(dtype)?;
        }
        Ok(())
    })
}

/// Token ids that depend on nothing but the vocabulary.
fn probe_ids(vocab: i32) -> Array {
    let count = PROBE_SHAPE.iter().product::<i32>() as u64;
    let ids: Vec<i32> =
        (0..count).map(|i| (rng::digest([i]) % u64::from(vocab.unsigned_abs())) as i32).collect();
    Array::from_slice(&ids, &PROBE_SHAPE)
}

fn logits(model: &dyn LanguageModel, ids: &Array) -> Result<Vec<f32>> {
    let logits = model.forward(ids, None)?.as_dtype(Dtype::Float32)?;
    kernels::eval([&logits])?;
    Ok(logits.as_slice::<f32>().to_vec())
}

fn mean_square(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.map(|x| x * x).sum::<f64>() / count
}

fn rms_difference(a: &[f32], b: &[f32]) -> f64 {
    mean_square(a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b))).sqrt()
}

/// Standard deviation.
fn standard_deviation(a: &[f32]) -> f64 {
    let mean = a.iter().copied().map(f64::from).sum::<f64>() / a.len() as f64;
    mean_square(a.iter().map(|&a| f64::from(a) - mean)).sqrt()
}

/// How far `merged` is on the way from `base` to `wanted`.
fn kept_fraction(base: &[f32], wanted: &[f32], merged: &[f32]) -> f64 {
    let (mut along, mut length) = (0.0, 0.0);
    for ((&base, &wanted), &merged) in base.iter().zip(wanted).zip(merged) {
        let way = f64::from(wanted) - f64::from(base);
        along += way * (f64::from(merged) - f64::from(base));
        length += way * way;
    }
    if length > 0.0 { along / length } else { 1.0 }
}
