//! Quantization runs: from a loaded model and settings to a quantized model folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Instant;

use mlx_rs::memory;
use mlx_rs::module::ModuleParameters as _;
use serde::Serialize;
use serde_json::{Value, json};

use super::config::{CalibrationRows, QuantizeConfig, Technique};
use super::importance::Importance;
use super::job::{Job, progress};
use super::layer;
use super::mixed::Mixed;
use super::plan::Plan;
use super::report::{LayerReport, Report};
use super::rtn::rtn;
use crate::calibrate::CalibrationText;
use crate::data::Tokenizer;
use crate::io::output::{CHECKPOINTS, IfExists, OutputFolder, refuse_source, required};
use crate::io::{atomic, folder, weights};
use crate::kernels::linear::Weight;
use crate::models::Model;
use crate::progress::{Observer, Silent};
use crate::rng::digest;
use crate::{Error, Result};

/// File name of the report in the output folder.
pub(super) const REPORT: &str = "quantization.json";

/// Quantizes `model`, loaded from the folder `source`, as `config` says, and saves it to `output`, which must be set.
/// `model` holds the result afterwards.
///
/// # Errors
/// Invalid settings; a layer that cannot be quantized; calibration text that cannot be used; weights that are not
/// finite; an output folder that cannot be written; [`Error::Interrupted`] if the observer stops the run, which can be
/// resumed after the last finished block.
pub fn run(
    model: &mut Model,
    tokenizer: &Tokenizer,
    source: &Path,
    config: &QuantizeConfig,
    observer: &mut dyn Observer,
) -> Result<Report> {
    config.validate()?;
    let begin = Instant::now();
    memory::reset_peak_memory()?;
    let output = required(config.output.as_deref())?;
    refuse_source(source, output)?;
    let dequantized = if config.dequantize { layer::dequantize_all(model)? } else { BTreeSet::new() };
    let mut plan = Plan::new(model, config)?;
    let mixed = match config.technique {
        Technique::Mixed => Some(Mixed::new(model, &plan, config)?),
        _ => None,
    };
    let sequences = sequences(model, tokenizer, config, observer)?;
    let importance = config.importance.as_ref().map(|path| Importance::read(Path::new(path))).transpose()?;
    let output = OutputFolder::open(output, &results(), CHECKPOINTS, if_exists(config))?;
    let mut identity = identity(config, sequences.as_deref().unwrap_or_default(), source)?;
    let sensitivity = match mixed {
        Some(mixed) => {
            let sequences = sequences.as_deref().unwrap_or_default();
            mixed.choose(model, &mut plan, sequences, config, (output.folder(), &identity), observer)?
        }
        None => Vec::new(),
    };
    identity["formats"] = json!(plan.fingerprint());
    let job = Job { source, output: output.folder(), identity: &identity, config, plan: &plan };
    let (mut layers, divergence) = match sequences {
        Some(sequences) if config.technique == Technique::Learned => {
            job.learn(model, &sequences, observer)?
        }
        Some(sequences) => (job.calibrate(model, &sequences, CHECKPOINTS, observer)?, None),
        None => (rounded(model, config, &plan, importance.as_ref(), observer)?, None),
    };
    layers.sort_by_key(|layer| plan.position(&layer.path));
    let report = Report {
        requantization_error: requantization_error(model, &layers, &dequantized)?,
        sensitivity,
        divergence,
        ..report(model, layers, config, begin, output.folder())?
    };
    folder::save_quantized(source, output.folder(), model, &plan.formats)?;
    let text =
        serde_json::to_string_pretty(&json!({"config": config, "report": &report})).unwrap_or_default();
    atomic::write_text(&output.folder().join(REPORT), &(text + "\n"))?;
    let checkpoints = output.folder().join(CHECKPOINTS);
    if checkpoints.exists() {
        fs::remove_dir_all(&checkpoints).map_err(Error::io("remove", &checkpoints))?;
    }
    Ok(report)
}

/// What a run would work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Number of layers to quantize.
    pub layers: usize,
    /// Number of calibration sequences.
    pub sequences: usize,
    /// Number of calibration tokens.
    pub tokens: usize,
}

/// Checks `config` and its calibration text without quantizing anything.
///
/// # Errors
/// Those of [`run`] that can be found before the first layer.
pub fn validate(model: &mut Model, tokenizer: &Tokenizer, config: &QuantizeConfig) -> Result<Summary> {
    config.validate()?;
    if config.dequantize {
        layer::dequantize_all(model)?;
    }
    let plan = Plan::new(model, config)?;
    if config.technique == Technique::Mixed {
        Mixed::new(model, &plan, config)?;
    }
    let layers = plan.formats.len();
    // As many, however they are chosen.
    let config = QuantizeConfig { calibration_rows: CalibrationRows::Random, ..config.clone() };
    let sequences = sequences(model, tokenizer, &config, &mut Silent)?.unwrap_or_default();
    let tokens = sequences.iter().map(Vec::len).sum();
    Ok(Summary { layers, sequences: sequences.len(), tokens })
}

/// Calibration sequences, if there is calibration text.
fn sequences(
    model: &Model,
    tokenizer: &Tokenizer,
    config: &QuantizeConfig,
    observer: &mut dyn Observer,
) -> Result<Option<Vec<Vec<u32>>>> {
    let Some(data) = config.calibration()? else { return Ok(None) };
    let &QuantizeConfig { calibration_sequences: sequences, sequence_length: length, seed, .. } = config;
    let text = CalibrationText { data, sequences, length, seed };
    let sequences = match config.calibration_rows {
        CalibrationRows::Random => text.read(tokenizer, model.vocab_size())?,
        CalibrationRows::Auto => text.choose(tokenizer, model, observer)?,
    };
    Ok(Some(sequences))
}

/// Checks whether the output folder is free for a run with this configuration, before a model is loaded.
///
/// # Errors
/// A folder that holds a run or a model, unless `overwrite` or `resume` is set; with `resume`, one without checkpoints.
pub fn check_output(config: &QuantizeConfig) -> Result<()> {
    OutputFolder::check(required(config.output.as_deref())?, &results(), CHECKPOINTS, if_exists(config))
}

fn results() -> [&'static str; 3] {
    [weights::FILE, "config.json", REPORT]
}

fn if_exists(config: &QuantizeConfig) -> IfExists {
    IfExists::from_settings(config.resume, config.overwrite)
}

/// Rounds every layer to nearest, heeding `importance` where there is any.
fn rounded(
    model: &mut Model,
    config: &QuantizeConfig,
    plan: &Plan,
    importance: Option<&Importance>,
    observer: &mut dyn Observer,
) -> Result<Vec<LayerReport>> {
    let mut layers = Vec::new();
    model.visit_quantizable(&mut |path, weight| {
        let Some(&format) = plan.formats.get(path) else { return Ok(()) };
        let columns = weight.weight.dim(1) as usize;
        let importance = importance.map(|all| all.of(path, columns)).transpose()?.flatten();
        layers.push(rtn(path, weight, format, config.range_search, importance.as_deref())?);
        progress(observer, layers.len(), plan.formats.len())
    })?;
    Ok(layers)
}

/// What a resumed run must match.
fn identity(config: &QuantizeConfig, sequences: &[Vec<u32>], source: &Path) -> Result<Value> {
    let mut identity = json!(config);
    for key in ["model_path", "output", "resume", "overwrite", "calibration", "sensitivity"] {
        identity.as_object_mut().and_then(|fields| fields.shift_remove(key));
    }
    let tokens = sequences.iter().flatten().map(|&token| u64::from(token));
    identity["tokens"] = json!(format!("{:016x}", digest(tokens)));
    identity["model"] = json!(folder::fingerprint(source)?);
    Ok(identity)
}

/// Mean relative error of the layers that were `dequantized` before.
fn requantization_error(
    model: &mut Model,
    layers: &[LayerReport],
    dequantized: &BTreeSet<String>,
) -> Result<Option<f64>> {
    let (mut sum, mut weights) = (0.0, 0.0);
    model.visit_quantizable(&mut |path, weight| {
        let report = layers.iter().find(|layer| layer.path == path && dequantized.contains(path));
        if let (Some(report), Weight::Packed(packed)) = (report, weight.as_weight()) {
            let (rows, columns) = packed.shape()?;
            sum += report.weight_error * (rows * columns) as f64;
            weights += (rows * columns) as f64;
        }
        Ok(())
    })?;
    Ok((weights > 0.0).then(|| sum / weights))
}

fn report(
    model: &mut Model,
    layers: Vec<LayerReport>,
    config: &QuantizeConfig,
    begin: Instant,
    output: &Path,
) -> Result<Report> {
    let size: u64 = model.parameters().flatten().values().map(|x| x.nbytes() as u64).sum();
    let parameters = model.count_parameters()?;
    let calibrated = config.calibration.is_some();
    let blind = |layer: &&LayerReport| calibrated && layer.tokens == 0;
    Ok(Report {
        uncalibrated: layers.iter().filter(blind).map(|layer| layer.path.clone()).collect(),
        layers,
        parameters,
        requantization_error: None,
        sensitivity: Vec::new(),
        bits_per_weight: size as f64 * 8.0 / parameters as f64,
        size,
        seconds: begin.elapsed().as_secs_f64(),
        divergence: None,
        peak_memory: memory::peak_memory()? as u64,
        output: output.to_owned(),
    })
}
