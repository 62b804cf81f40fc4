//! Quantization runs: from a loaded model and settings to a quantized model folder.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mlx_rs::module::ModuleParameters as _;
use mlx_rs::{Array, Dtype, memory};
use serde_json::{Value, json};

use super::block::quantize_block;
use super::config::{QuantizeConfig, Technique};
use super::layer::{self, restore};
use super::learned::{Teacher, learn};
use super::plan::Plan;
use super::report::{LayerReport, Report};
use super::rtn::rtn;
use crate::calibrate::{BlockCheckpoints, BlockStream, CalibrationText};
use crate::data::Tokenizer;
use crate::io::output::{CHECKPOINTS, IfExists, OutputFolder};
use crate::io::{atomic, folder, weights};
use crate::kernels::quantized::Mode;
use crate::models::Model;
use crate::progress::{Event, Observer};
use crate::rng::digest;
use crate::{Error, Result, kernels};

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
    let output = required_output(config)?;
    check_target(source, output)?;
    if config.dequantize {
        layer::dequantize_all(model)?;
    }
    let plan = Plan::new(model, config)?;
    let sequences = match config.calibration()? {
        None => None,
        Some(data) => {
            let &QuantizeConfig { calibration_sequences: sequences, sequence_length: length, seed, .. } =
                config;
            Some(CalibrationText { data, sequences, length, seed }.read(tokenizer, model.vocab_size())?)
        }
    };
    let output = OutputFolder::open(output, &results(), CHECKPOINTS, if_exists(config))?;
    let (mut layers, divergence) = match sequences {
        Some(sequences) if config.technique == Technique::Learned => {
            learned(model, &sequences, source, &output, config, &plan, observer)?
        }
        Some(sequences) => {
            let folder = output.folder().join(CHECKPOINTS);
            let identity = identity(config, &sequences, source)?;
            (calibrated(model, &sequences, (folder, &identity), config, &plan, observer)?, None)
        }
        None => (rounded(model, config, &plan, observer)?, None),
    };
    layers.sort_by_key(|layer| plan.position(&layer.path));
    let report = Report { divergence, ..report(model, layers, config, begin, output.folder())? };
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

/// Checks whether the output folder is free for a run with this configuration, before a model is loaded.
///
/// # Errors
/// A folder that holds a run or a model, unless `overwrite` or `resume` is set; with `resume`, one without checkpoints.
pub fn check_output(config: &QuantizeConfig) -> Result<()> {
    OutputFolder::check(required_output(config)?, &results(), CHECKPOINTS, if_exists(config))
}

fn required_output(config: &QuantizeConfig) -> Result<&Path> {
    config.output.as_deref().map(Path::new).ok_or_else(|| Error::Config("output is not set".into()))
}

fn check_target(source: &Path, output: &Path) -> Result<()> {
    let same = fs::canonicalize(output).is_ok_and(|to| fs::canonicalize(source).is_ok_and(|from| from == to));
    if same {
        return Err(Error::Config(format!("output is the model's own folder, {}", output.display())));
    }
    Ok(())
}

fn results() -> [&'static str; 3] {
    [weights::FILE, "config.json", REPORT]
}

fn if_exists(config: &QuantizeConfig) -> IfExists {
    match config {
        QuantizeConfig { resume: true, .. } => IfExists::Resume,
        QuantizeConfig { overwrite: true, .. } => IfExists::Overwrite,
        _ => IfExists::Fail,
    }
}

/// Rounds every layer to nearest.
fn rounded(
    model: &mut Model,
    config: &QuantizeConfig,
    plan: &Plan,
    observer: &mut dyn Observer,
) -> Result<Vec<LayerReport>> {
    let mut layers = Vec::new();
    model.visit_quantizable(&mut |path, weight| {
        let Some(&format) = plan.formats.get(path) else { return Ok(()) };
        layers.push(rtn(path, weight, format, config.range_search, None)?);
        progress(observer, layers.len(), plan.formats.len())
    })?;
    Ok(layers)
}

/// Quantizes the blocks one after the other, and then embeddings and head.
fn calibrated(
    model: &mut Model,
    sequences: &[Vec<u32>],
    (folder, identity): (PathBuf, &Value),
    config: &QuantizeConfig,
    plan: &Plan,
    observer: &mut dyn Observer,
) -> Result<Vec<LayerReport>> {
    let mut layers: Vec<LayerReport> = Vec::new();
    let resumed = if config.resume { BlockCheckpoints::resume(folder.clone(), identity)? } else { None };
    let (checkpoints, mut stream) = if let Some((checkpoints, blocks, stream)) = resumed {
        for block in blocks {
            restore(model, block.parameters, plan)?;
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
        let reports = quantize_block(model, &stream, plan, config, observer)?;
        stream.advance(model, observer)?;
        checkpoints.save(model, &stream, &json!(reports))?;
        layers.extend(reports);
        progress(observer, stream.block(), blocks)?;
    }
    let importance = head_importance(model, &stream)?;
    let done: Vec<String> = layers.iter().map(|layer| layer.path.clone()).collect();
    model.visit_quantizable(&mut |path, weight| {
        let Some(&format) = plan.formats.get(path) else { return Ok(()) };
        if !done.iter().any(|done| done == path) {
            layers.push(rtn(path, weight, format, config.range_search, Some(&importance))?);
        }
        Ok(())
    })?;
    Ok(layers)
}

/// Quantizes the blocks, and then learns scales and biases. Returns the divergence before and after, too.
fn learned(
    model: &mut Model,
    sequences: &[Vec<u32>],
    source: &Path,
    output: &OutputFolder,
    config: &QuantizeConfig,
    plan: &Plan,
    observer: &mut dyn Observer,
) -> Result<(Vec<LayerReport>, Option<[f64; 2]>)> {
    let identity = identity(config, sequences, source)?;
    let folder = output.folder().join(CHECKPOINTS);
    let predictions = (config.learned_temperature, config.learned_top_k);
    let id = folder::fingerprint(source)?;
    let teacher = Teacher::prepare(model, &id, sequences, predictions, &folder, observer)?;
    let blocks = (folder.join("blocks"), &identity);
    let mut layers = calibrated(model, sequences, blocks, config, plan, observer)?;
    let divergence = learn(model, sequences, &teacher, config, (&folder, identity), observer)?;
    let is_learned = |layer: &&mut LayerReport| plan.formats[&layer.path].mode() == Mode::Affine;
    if divergence.is_none_or(|[before, after]| after < before) {
        layers.iter_mut().filter(is_learned).for_each(|layer| layer.technique += ", learned");
    }
    Ok((layers, divergence))
}

/// Mean squares of the inputs of the output head, `[hidden]`.
fn head_importance(model: &Model, stream: &BlockStream) -> Result<Vec<f32>> {
    let mut sum: Option<Array> = None;
    for x in stream.batches() {
        let x = model.apply_final_norm(x)?.as_dtype(Dtype::Float32)?;
        let squares = x.reshape(&[-1, x.dim(-1)])?.square()?.mean_axis(0, false)?;
        let total = match sum {
            Some(sum) => sum.add(squares)?,
            None => squares,
        };
        kernels::eval([&total])?;
        sum = Some(total);
    }
    Ok(sum.map(|sum| sum.as_slice::<f32>().to_vec()).unwrap_or_default())
}

/// What a resumed run must match.
fn identity(config: &QuantizeConfig, sequences: &[Vec<u32>], source: &Path) -> Result<Value> {
    let mut identity = json!(config);
    for key in ["model_path", "output", "resume", "overwrite", "calibration"] {
        identity.as_object_mut().and_then(|fields| fields.shift_remove(key));
    }
    let tokens = sequences.iter().flatten().map(|&token| u64::from(token));
    identity["tokens"] = json!(format!("{:016x}", digest(tokens)));
    identity["model"] = json!(folder::fingerprint(source)?);
    Ok(identity)
}

fn progress(observer: &mut dyn Observer, done: usize, total: usize) -> Result<()> {
    let event = Event::Progress { stage: "quantize".to_owned(), done: done as u64, total: total as u64 };
    if observer.on(&event) == ControlFlow::Break(()) { Err(Error::Interrupted) } else { Ok(()) }
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
        bits_per_weight: size as f64 * 8.0 / parameters as f64,
        size,
        seconds: begin.elapsed().as_secs_f64(),
        divergence: None,
        peak_memory: memory::peak_memory()? as u64,
        output: output.to_owned(),
    })
}
