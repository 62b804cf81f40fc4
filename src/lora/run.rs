//! From a loaded model and a configuration to an adapter or a model folder on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mlx_rs::memory;
use mlx_rs::module::ModuleParameters as _;
use serde::Serialize;
use serde_json::json;

use super::adalora::Allocator;
use super::config::{Method, TrainingConfig};
use super::dataset::{self, Dataset, fingerprint, fingerprint_of, given};
use super::method::LoraInit;
use super::plan::plan;
use super::prompt;
use crate::adapters::finalize::finalize;
use crate::adapters::{self, Adapter, SoftPrompt, StoredAdapter, attach};
use crate::data::{DataReport, Tokenizer};
use crate::io::output::{CHECKPOINTS, IfExists, OutputFolder};
use crate::io::{atomic, folder, weights};
use crate::kernels::group::Group;
use crate::models::LanguageModel;
use crate::progress::{Event, MemoryEstimate, Observer, Quiet};
use crate::train::batches::{Data, Training};
use crate::train::checkpoint::Checkpoints;
use crate::train::fit::{Outcome, Trained, fit};
use crate::train::hook::StepHook;
use crate::train::memory::expect;
use crate::train::objective::Objective;
use crate::train::reference::{self, Reference};
use crate::train::rewards::Rewards;
use crate::{Error, Result};

const REPORT: &str = "training.json";

/// What a run did. Losses are those of the objective, of SFT in nats per target token, times in seconds, memory in bytes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Loss of the last step.
    pub final_loss: f64,
    /// What it was expected to take.
    pub memory: MemoryEstimate,
    /// Time spent in steps.
    pub training_time_secs: f64,
    /// Peak of MLX's allocator.
    pub peak_memory_bytes: usize,
    /// Validation loss of the untouched model; `None` without validation rows.
    pub loss_before: Option<f64>,
    /// Validation loss of the result.
    pub loss_after: Option<f64>,
    /// `exp(loss_before)`, of SFT
    pub perplexity_before: Option<f64>,
    /// `exp(loss_after)`, of SFT
    pub perplexity_after: Option<f64>,
    /// Of the validation pairs under the untouched model.
    pub rewards_before: Option<Rewards>,
    /// Of the validation pairs under the result.
    pub rewards_after: Option<Rewards>,
    /// Tokens (padding not counted) per second of `training_time_secs`.
    pub tokens_per_second: f64,
    /// Tokens that went through the model.
    pub trained_tokens: u64,
    /// Optimizer steps taken.
    pub steps: u64,
    /// Whether the validation loss ended the run before its last step.
    pub stopped_early: bool,
    /// Steps taken before the weights of the result, where the best ones were kept.
    pub best_step: Option<u64>,
    /// Loss of every step.
    pub train_losses: Vec<f64>,
    /// `[steps taken, validation loss]`
    pub validation_losses: Vec<(u64, f64)>,
    /// Rewards of every step, where rows are pairs.
    pub train_rewards: Vec<Rewards>,
    /// `[steps taken, rewards of the validation pairs]`
    pub validation_rewards: Vec<(u64, Rewards)>,
    /// Numbers that were trained.
    pub trainable_parameters: u64,
    /// Numbers in the model, adapters included.
    pub total_parameters: u64,
    /// Rows, validation included, that were cut to `max_seq_length`; of rows on disk, those met in the first epoch.
    pub truncated_rows: usize,
    /// Rows, validation included, that were left out because nothing in them is to be learned; of rows on disk, those met
    /// in the first epoch.
    pub dropped_rows: usize,
    /// Folder of the result.
    pub adapter_path: PathBuf,
    /// Step this run continued from; 0 for a fresh one.
    pub resumed_from: u64,
    /// Processes that trained together.
    pub processes: usize,
    /// Ranks by layer, where they differ.
    pub rank_pattern: Option<BTreeMap<String, u32>>,
}

/// Trains `model`, which came from the folder `source`, as `config` says; its `data` and `output`
/// must be set. `model` holds the result afterwards.
///
/// # Errors
/// A configuration, data set or output folder that cannot be used, by name; a loss that is
/// not a number; [`Error::Interrupted`] when the observer stops it, after a checkpoint.
pub fn run(
    model: &mut dyn LanguageModel,
    tokenizer: &Tokenizer,
    source: &Path,
    config: &TrainingConfig,
    observer: &mut dyn Observer,
) -> Result<Report> {
    config.validate()?;
    let group = Group::join()?;
    let mut quiet = Quiet(observer);
    let observer: &mut dyn Observer = if group.leads() { quiet.0 } else { &mut quiet };
    let existing = match config {
        TrainingConfig { resume: true, .. } => IfExists::Resume,
        TrainingConfig { overwrite: true, .. } => IfExists::Overwrite,
        _ => IfExists::Fail,
    };
    let Dataset { data, losses } = Dataset::read(tokenizer, config, model.vocab_size(), observer)?;
    if config.early_stopping_patience.is_some() && data.valid.is_empty() {
        return Err(Error::Config(
            "early_stopping_patience needs validation rows, which data has not".into(),
        ));
    }
    let folder = PathBuf::from(given("output", config.output.as_deref())?);
    if fs::canonicalize(&folder).is_ok_and(|folder| fs::canonicalize(source).is_ok_and(|base| base == folder))
    {
        return Err(Error::Config(format!("output is the model's own folder, {}", folder.display())));
    }
    let mut results = vec![REPORT, weights::FILE, "config.json"];
    results.extend(adapters::formats::FILES);
    let _output =
        group.leads().then(|| OutputFolder::open(&folder, &results, CHECKPOINTS, existing)).transpose()?;
    group.wait()?;
    let names = prepare(model, tokenizer, config)?;
    let mut identity = config.identity();
    identity["batch_size"] = json!(config.batch_size * group.size());
    identity["data"] = json!(fingerprint(&data.train));
    identity["model"] = json!(folder::fingerprint(source)?);
    let start = format!("{identity}, {}", fingerprint_of(&data.valid));
    let unfinished = folder.join(CHECKPOINTS);
    let checkpoints = Checkpoints::new(unfinished.clone(), identity, config.keep_checkpoints);
    let plan = plan(config, data.train.len(), tokenizer.pad_id(), group)?;
    let resumed = if config.resume { Some(checkpoints.latest()?) } else { None };
    let resumed_from = resumed.as_ref().map_or(0, |state| state.step);
    let mut allocator = match config.method {
        Method::Adalora => Some(Allocator::new(config, &names, plan.steps)?),
        _ => None,
    };
    let (data, checkpoints) = match (plan.objective, data) {
        (Objective::Dpo { .. }, Data { train: Training::Whole(train), valid }) => {
            let path = unfinished.join(reference::FILE);
            let reference = Reference::of(model, &train, &valid, &path, start, &plan, observer)?;
            let checkpoints = checkpoints.with_companion(reference::FILE, reference.text()?);
            (reference.attach(train, valid), checkpoints)
        }
        (_, data) => (data, checkpoints),
    };
    let hook = allocator.as_mut().map(|allocator| allocator as &mut dyn StepHook);
    let trained = Trained { names: &names, hook };
    let outcome = fit(model, trained, &data, &plan, &checkpoints, resumed, observer)?;
    let stopped_early = outcome.steps < plan.steps;
    let measured = report(model, &names, outcome)?;
    let ranks = finalize(model)?;
    prompt::settle(model)?;
    let [truncated_rows, dropped_rows] = dataset::losses(losses, &data.train);
    let report = Report {
        stopped_early,
        resumed_from,
        truncated_rows,
        dropped_rows,
        adapter_path: folder.clone(),
        rank_pattern: (!ranks.is_empty()).then(|| ranks.clone()),
        processes: group.size(),
        ..measured
    };
    if group.leads() {
        save(model, source, config, ranks, &folder)?;
        write(&report, config, &folder)?;
    }
    group.wait()?;
    // The result is safe on disk: a request to stop has nothing left to stop.
    let _ = observer.on(&Event::Finished { step: report.steps, path: folder });
    Ok(report)
}

fn write(report: &Report, config: &TrainingConfig, folder: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(&json!({"config": config, "report": report})).unwrap_or_default();
    atomic::write_text(&folder.join(REPORT), &(text + "\n"))
}

/// Checks `config` and its data without training; what the data hold.
///
/// # Errors
/// As [`run`], as far as they show before the first step.
pub fn validate(
    model: &mut dyn LanguageModel,
    tokenizer: &Tokenizer,
    config: &TrainingConfig,
    observer: &mut dyn Observer,
) -> Result<DataReport> {
    config.validate()?;
    let report = dataset::report(tokenizer, config, observer)?;
    prepare(model, tokenizer, &undecomposed(config))?;
    attach::detach(model)?;
    Ok(report)
}

/// What [`run`] is expected to take of MLX's memory, found by trying two short rows.
///
/// # Errors
/// As [`run`], as far as they show before the first step; a budget in which not even one row fits.
pub fn estimate_memory(
    model: &mut dyn LanguageModel,
    tokenizer: &Tokenizer,
    config: &TrainingConfig,
    observer: &mut dyn Observer,
) -> Result<MemoryEstimate> {
    config.validate()?;
    let Dataset { data, .. } = Dataset::read(tokenizer, config, model.vocab_size(), observer)?;
    let plan = plan(config, data.train.len(), tokenizer.pad_id(), Group::ALONE)?;
    let found = prepare(model, tokenizer, &undecomposed(config))
        .and_then(|names| expect(model, &names, &plan, &data));
    attach::detach(model)?;
    found
}

/// `config` without the decomposition of every matrix, which would show nothing more.
fn undecomposed(config: &TrainingConfig) -> TrainingConfig {
    TrainingConfig { lora_init: LoraInit::Default, ..config.clone() }
}

/// Opens what is trained; names of its parameters.
fn prepare(
    model: &mut dyn LanguageModel,
    tokenizer: &Tokenizer,
    config: &TrainingConfig,
) -> Result<Vec<String>> {
    attach::detach(model)?;
    if config.method == Method::Full {
        model.visit_quantizable(&mut |path, weight| match weight.format {
            None => Ok(()),
            Some(_) => Err(Error::Config(format!(
                "method \"full\" trains every weight, but {path} is quantized; load a dense model or train adapters"
            ))),
        })?;
        let mut names: Vec<String> = model.parameters().flatten().keys().map(ToString::to_string).collect();
        names.sort();
        return Ok(names);
    }
    match (&config.init_adapter, config.method.prompt()) {
        (Some(folder), _) => start_from(folder, model, config)?,
        (None, Some(kind)) => prompt::attach(model, tokenizer, kind, config)?,
        (None, None) => attach::attach(model, &config.adapter_settings())?,
    }
    Ok(attach::parameter_names(model))
}

/// Attaches the adapter in `folder`, ready to be trained.
fn start_from(folder: &str, model: &mut dyn LanguageModel, config: &TrainingConfig) -> Result<()> {
    let wanted = config.method.name();
    let found = match adapters::load(Path::new(folder), model)? {
        StoredAdapter::Full(_) => "full",
        StoredAdapter::LowRank(adapter) => adapter.kind(),
        StoredAdapter::Prompt(prompt) => Method::of(prompt.kind).name(),
    };
    if found != wanted {
        return Err(Error::Config(format!(
            "init_adapter: {folder} holds an adapter of type \"{found}\", which method \"{wanted}\" cannot go on with"
        )));
    }
    // The adapter brings its shape and scale; precision and dropout belong to this run.
    attach::make_trainable(model, config.lora_dropout as f32)
}

/// Writes the adapter, or a complete model folder when every weight was trained.
fn save(
    model: &mut dyn LanguageModel,
    source: &Path,
    config: &TrainingConfig,
    ranks: BTreeMap<String, u32>,
    target: &Path,
) -> Result<()> {
    if config.method == Method::Full {
        return folder::save(source, target, model);
    }
    let base = config.model_path.clone().unwrap_or_else(|| source.display().to_string());
    if let (Some(kind), Some(prompt)) = (config.method.prompt(), model.prompt_mut()) {
        let (embeddings, place) = ((*prompt.embedding).clone(), prompt.shape);
        return SoftPrompt { kind, embeddings }.write(target, place, &base);
    }
    let adapter = Adapter { ranks, ..Adapter::from_network(model, Some(base))? };
    adapters::write(target, &adapter, config.adapter_format, Some(model))
}

/// What the curves and the model tell; the rest is at its zero value.
fn report(model: &dyn LanguageModel, names: &[String], outcome: Outcome) -> Result<Report> {
    let Outcome { steps, history, best, memory: expected } = outcome;
    let parameters = model.parameters().flatten();
    let scored = |point: Option<&(u64, f64)>| point.map(|&(_, loss)| loss);
    let perplexity = |loss: Option<f64>| loss.filter(|_| history.train_rewards.is_empty()).map(f64::exp);
    let rewards_after = |&(step, _): &(u64, f64)| {
        history.validation_rewards.iter().find(|(at, _)| *at == step).map(|&(_, rewards)| rewards)
    };
    let loss_before = scored(history.validation_losses.first());
    let loss_after = scored(best.as_ref().or(history.validation_losses.last()));
    Ok(Report {
        final_loss: history.train_losses.last().copied().unwrap_or(f64::NAN),
        memory: expected,
        training_time_secs: history.training_secs,
        peak_memory_bytes: memory::peak_memory()?,
        loss_before,
        loss_after,
        perplexity_before: perplexity(loss_before),
        perplexity_after: perplexity(loss_after),
        rewards_before: history.validation_rewards.first().map(|&(_, rewards)| rewards),
        rewards_after: best.as_ref().or(history.validation_losses.last()).and_then(rewards_after),
        tokens_per_second: history.trained_tokens as f64 / history.training_secs,
        trained_tokens: history.trained_tokens,
        steps,
        best_step: best.map(|(step, _)| step),
        trainable_parameters: names.iter().map(|name| parameters[name.as_str()].size() as u64).sum(),
        total_parameters: parameters.values().map(|x| x.size() as u64).sum(),
        train_losses: history.train_losses,
        validation_losses: history.validation_losses,
        train_rewards: history.train_rewards,
        validation_rewards: history.validation_rewards,
        ..Report::default()
    })
}
