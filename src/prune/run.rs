//! Pruning runs: from a loaded model and settings to a pruned model folder.

use std::fs;
use std::path::Path;
use std::time::Instant;

use mlx_rs::memory;
use mlx_rs::module::ModuleParameters as _;
use serde::Serialize;
use serde_json::{Value, json};

use super::allocation::allocate;
use super::block::{prune_block, prune_layer};
use super::config::{PruneConfig, Storage};
use super::method::Method;
use super::plan::Plan;
use super::progress::progress;
use super::report::{LayerReport, Report};
use super::structured::{Outcome, Structured};
use super::taylor;
use crate::calibrate::{BlockCheckpoints, BlockStream, CalibrationText, with_weight};
use crate::data::Tokenizer;
use crate::io::output::{CHECKPOINTS, IfExists, OutputFolder, refuse_source, required};
use crate::io::sparsity::REPORT;
use crate::io::{atomic, checkpoint, folder, weights};
use crate::models::Model;
use crate::params::set_parameters;
use crate::progress::Observer;
use crate::rng::digest;
use crate::{Error, Result};

/// Prunes `model`, loaded from the folder `source`, as `config` says, and saves it to `output`, which must be set. `model`
/// holds the result afterwards, but for structured patterns, whose result is another model.
///
/// # Errors
/// Invalid settings; a layer that cannot be pruned; calibration text that cannot be used; weights that are not finite; an
/// output folder that cannot be written; [`Error::Interrupted`] if the observer stops the run, which can be resumed after
/// the last finished block.
pub fn run(
    model: &mut Model,
    tokenizer: &Tokenizer,
    source: &Path,
    config: &PruneConfig,
    observer: &mut dyn Observer,
) -> Result<Report> {
    config.validate()?;
    let begin = Instant::now();
    memory::reset_peak_memory()?;
    let output = required(config.output.as_deref())?;
    refuse_source(source, output)?;
    if config.pattern.is_structured() {
        return structured(model, tokenizer, source, config, observer);
    }
    let mut plan = Plan::new(model, config)?;
    let sequences = sequences(model, tokenizer, config)?;
    let output = OutputFolder::open(output, &results(), CHECKPOINTS, if_exists(config))?;
    let layers = match sequences {
        Some(sequences) => {
            let identity = identity(config, &sequences, source)?;
            calibrated(model, &sequences, &mut plan, config, (output.folder(), &identity), observer)?
        }
        None => uncalibrated(model, &plan, config, observer)?,
    };
    let report = report(model, layers, begin, output.folder())?;
    match config.format {
        Storage::Dense => folder::save(source, output.folder(), model)?,
        Storage::SparseBitmask => folder::save_bitmask(source, output.folder(), model)?,
    }
    write_report(config, &report)?;
    let checkpoints = output.folder().join(CHECKPOINTS);
    if checkpoints.exists() {
        fs::remove_dir_all(&checkpoints).map_err(Error::io("remove", &checkpoints))?;
    }
    Ok(report)
}

/// As [`run`], of patterns that make the model smaller.
fn structured(
    model: &mut Model,
    tokenizer: &Tokenizer,
    source: &Path,
    config: &PruneConfig,
    observer: &mut dyn Observer,
) -> Result<Report> {
    let begin = Instant::now();
    let file = checkpoint::config(source)?;
    let plan = Structured::new(model, &file, config)?;
    let sequences = sequences(model, tokenizer, config)?;
    let output =
        OutputFolder::open(required(config.output.as_deref())?, &results(), CHECKPOINTS, if_exists(config))?;
    let parameters_before = model.count_parameters()?;
    let Outcome { model: mut smaller, file, blocks, sparsity, removed_hidden } =
        plan.run(model, sequences.as_deref(), config, observer)?;
    let parameters = smaller.count_parameters()?;
    folder::save_described(source, output.folder(), file, smaller.as_ref())?;
    let report = Report {
        layers: Vec::new(),
        blocks,
        removed_hidden,
        parameters_before,
        parameters,
        nonzero: parameters,
        sparsity: sparsity.unwrap_or(1.0 - parameters as f64 / parameters_before as f64),
        seconds: begin.elapsed().as_secs_f64(),
        peak_memory: memory::peak_memory()? as u64,
        output: output.folder().to_owned(),
    };
    write_report(config, &report)?;
    Ok(report)
}

fn write_report(config: &PruneConfig, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(&json!({"config": config, "report": report})).unwrap_or_default();
    atomic::write_text(&report.output.join(REPORT), &(text + "\n"))
}

/// What a run would work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Number of layers to prune, or of blocks to remove.
    pub layers: usize,
    /// Number of calibration sequences.
    pub sequences: usize,
    /// Number of calibration tokens.
    pub tokens: usize,
}

/// Checks `config` and its calibration text without pruning `model`, loaded from the folder `source`.
///
/// # Errors
/// Those of [`run`] that can be found before the first layer.
pub fn validate(
    model: &mut Model,
    tokenizer: &Tokenizer,
    source: &Path,
    config: &PruneConfig,
) -> Result<Summary> {
    config.validate()?;
    let layers = if config.pattern.is_structured() {
        Structured::new(model, &checkpoint::config(source)?, config)?.blocks()
    } else {
        Plan::new(model, config)?.order.len()
    };
    let sequences = sequences(model, tokenizer, config)?.unwrap_or_default();
    let tokens = sequences.iter().map(Vec::len).sum();
    Ok(Summary { layers, sequences: sequences.len(), tokens })
}

/// Checks whether the output folder is free for a run with this configuration, before a model is loaded.
///
/// # Errors
/// A folder that holds a run or a model, unless `overwrite` or `resume` is set; with `resume`, one without checkpoints.
pub fn check_output(config: &PruneConfig) -> Result<()> {
    OutputFolder::check(required(config.output.as_deref())?, &results(), CHECKPOINTS, if_exists(config))
}

/// Prunes the blocks one after the other, each on what the pruned ones before it give.
fn calibrated(
    model: &mut Model,
    sequences: &[Vec<u32>],
    plan: &mut Plan,
    config: &PruneConfig,
    (output, identity): (&Path, &Value),
    observer: &mut dyn Observer,
) -> Result<Vec<LayerReport>> {
    let folder = output.join(CHECKPOINTS);
    let mut layers: Vec<LayerReport> = Vec::new();
    allocate(model, plan, sequences, config, observer)?;
    let importance = match config.method() {
        Method::Taylor => Some(taylor::importance(model, &plan.order, sequences, observer)?),
        _ => None,
    };
    let resumed = if config.resume { BlockCheckpoints::resume(folder.clone(), identity)? } else { None };
    let (checkpoints, mut stream) = if let Some((checkpoints, blocks, stream)) = resumed {
        for block in blocks {
            set_parameters(model, &block.parameters)?;
            let reports: Vec<LayerReport> = serde_json::from_value(block.report)
                .map_err(|error| Error::Training(format!("a checkpoint is damaged: {error}")))?;
            layers.extend(reports);
        }
        (checkpoints, stream)
    } else {
        (BlockCheckpoints::create(folder, identity)?, BlockStream::start(model, sequences)?)
    };
    let blocks = model.block_count();
    while stream.block() < blocks {
        let reports = prune_block(model, &stream, plan, config, importance.as_ref(), observer)?;
        stream.advance(model, observer)?;
        checkpoints.save(model, &stream, &json!(reports))?;
        layers.extend(reports);
        progress(observer, "prune", stream.block(), blocks)?;
    }
    Ok(layers)
}

fn uncalibrated(
    model: &mut Model,
    plan: &Plan,
    config: &PruneConfig,
    observer: &mut dyn Observer,
) -> Result<Vec<LayerReport>> {
    let mut layers = Vec::new();
    for path in &plan.order {
        let sparsity = plan.sparsity[path];
        layers.push(with_weight(model, path, |mut weight| {
            prune_layer(path, &mut weight, None, sparsity, config)
        })?);
        progress(observer, "prune", layers.len(), plan.order.len())?;
    }
    Ok(layers)
}

/// Calibration sequences, if there is calibration text.
fn sequences(model: &Model, tokenizer: &Tokenizer, config: &PruneConfig) -> Result<Option<Vec<Vec<u32>>>> {
    let Some(data) = config.calibration()? else { return Ok(None) };
    let &PruneConfig { calibration_sequences: sequences, sequence_length: length, seed, .. } = config;
    CalibrationText { data, sequences, length, seed }.read(tokenizer, model.vocab_size()).map(Some)
}

fn results() -> [&'static str; 3] {
    [weights::FILE, "config.json", REPORT]
}

fn if_exists(config: &PruneConfig) -> IfExists {
    IfExists::from_settings(config.resume, config.overwrite)
}

/// What a resumed run must match.
fn identity(config: &PruneConfig, sequences: &[Vec<u32>], source: &Path) -> Result<Value> {
    let mut identity = json!(config);
    for key in ["model_path", "output", "resume", "overwrite", "calibration"] {
        identity.as_object_mut().and_then(|fields| fields.shift_remove(key));
    }
    let tokens = sequences.iter().flatten().map(|&token| u64::from(token));
    identity["tokens"] = json!(format!("{:016x}", digest(tokens)));
    identity["model"] = json!(folder::fingerprint(source)?);
    Ok(identity)
}

fn report(model: &mut Model, layers: Vec<LayerReport>, begin: Instant, output: &Path) -> Result<Report> {
    let parameters: u64 = model.parameters().flatten().values().map(|x| x.size() as u64).sum();
    let (mut zeros, mut weights) = (0.0, 0.0);
    model.visit_linears(&mut |path, layer| {
        if let Some(report) = layers.iter().find(|report| report.path == path) {
            let size = layer.weight_mut().weight.size() as f64;
            zeros += (report.sparsity * size).round();
            weights += size;
        }
        Ok(())
    })?;
    Ok(Report {
        layers,
        blocks: Vec::new(),
        removed_hidden: Vec::new(),
        parameters_before: parameters,
        parameters,
        nonzero: parameters - zeros as u64,
        sparsity: zeros / weights,
        seconds: begin.elapsed().as_secs_f64(),
        peak_memory: memory::peak_memory()? as u64,
        output: output.to_owned(),
    })
}
