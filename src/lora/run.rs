//! Fine-tuning runs: from a loaded model and a configuration to an adapter or a model folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_rs::module::ModuleParameters as _;
use serde::Serialize;
use serde_json::Value;

use super::adalora::RankAllocator;
use super::config::{LoraInit, Method, TrainingConfig};
use super::dataset::{self, Dataset, examples_fingerprint, fingerprint, required};
use super::{prompt, quantization};
use crate::adapters::finalize::finalize;
use crate::adapters::{self, Adapter, SoftPrompt, StoredAdapter, attach, whole};
use crate::data::{Batch, DataReport, Tokenizer};
use crate::io::output::IfExists;
use crate::io::sparsity::{copy_report, pruned_layers};
use crate::io::{folder, weights};
use crate::kernels::group::Group;
use crate::models::Model;
use crate::progress::{Event, MemoryEstimate, Observer, Quiet};
use crate::train::fit::{Trainable, fit};
use crate::train::hooks::StepHook;
use crate::train::memory;
use crate::train::plan::Plan;
use crate::train::session::Session;
use crate::train::sparsity::SparsityMasks;
use crate::train::task::Task;
use crate::train::text::data::{TextData, TrainingRows};
use crate::train::text::objective::Objective;
use crate::train::text::quantization_aware::{FakeQuantization, QuantizationAware};
use crate::train::text::reference::{self, ReferenceLogProbs};
use crate::train::text::task::TextTask;
use crate::{Error, Result, train};

/// Report of a fine-tuning run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Report of the training loop.
    #[serde(flatten)]
    pub training: train::report::Report,
    /// Number of training and validation rows truncated to `max_seq_length`; of rows on disk, those read in the
    /// first epoch.
    pub truncated_rows: usize,
    /// Number of training and validation rows dropped because they have no target tokens; of rows on disk, those
    /// read in the first epoch.
    pub dropped_rows: usize,
    /// Folder of the result.
    pub adapter_path: PathBuf,
    /// Ranks by layer, if they differ.
    pub rank_pattern: Option<BTreeMap<String, u32>>,
}

/// Makes the task of a run.
pub trait TaskFactory {
    /// What is trained.
    type Task: Task<Model = Model, Batch = Batch>;

    /// Adds to `settings`, a JSON object, what else affects the loss curve: a resumed run must match it.
    fn add_identity(&self, settings: &mut Value);

    /// Returns the task of a run on `data`, given the one for text.
    ///
    /// # Errors
    /// Those of the task; [`Error::Interrupted`] if the observer stops the work.
    fn create(
        self,
        task: TextTask,
        data: &TextData,
        plan: &Plan,
        observer: &mut dyn Observer,
    ) -> Result<Self::Task>;
}

/// The objective of the configuration alone.
struct TextTaskFactory;

impl TaskFactory for TextTaskFactory {
    type Task = TextTask;

    fn add_identity(&self, _settings: &mut Value) {}

    fn create(
        self,
        task: TextTask,
        _data: &TextData,
        _plan: &Plan,
        _observer: &mut dyn Observer,
    ) -> Result<TextTask> {
        Ok(task)
    }
}

/// Fine-tunes `model`, loaded from the folder `source`, as `config` says; `data` and `output` must be set. `model`
/// holds the result afterwards.
///
/// # Errors
/// An invalid configuration; an unusable data set or output folder; a loss that is not finite;
/// [`Error::Interrupted`] if the observer stops the run, after a checkpoint has been saved.
pub fn run(
    model: &mut Model,
    tokenizer: &Tokenizer,
    source: &Path,
    config: &TrainingConfig,
    observer: &mut dyn Observer,
) -> Result<Report> {
    run_task(model, tokenizer, source, config, TextTaskFactory, observer)
}

/// As [`run`], with another task.
///
/// # Errors
/// Those of [`run`], and those of the factory.
pub fn run_task<F: TaskFactory>(
    model: &mut Model,
    tokenizer: &Tokenizer,
    source: &Path,
    config: &TrainingConfig,
    factory: F,
    observer: &mut dyn Observer,
) -> Result<Report> {
    config.validate()?;
    let group = Group::join()?;
    let mut quiet = Quiet(observer);
    let observer: &mut dyn Observer = if group.leads() { quiet.0 } else { &mut quiet };
    let Dataset { data, skipped } = Dataset::read(tokenizer, config, model.vocab_size(), observer)?;
    if config.early_stopping_patience.is_some() && data.valid.is_empty() {
        return Err(Error::Config(
            "early_stopping_patience needs validation rows, which data has not".into(),
        ));
    }
    let output = required("output", config.output.as_deref())?;
    let session = Session::open(output, source, &results(), if_exists(config), group)?;
    let names = prepare_parameters(model, tokenizer, config)?;
    let mut settings = config.identity();
    factory.add_identity(&mut settings);
    let identity = session.identity(settings, config.batch_size, &fingerprint(&data.train), source)?;
    let start = format!("{identity}, {}", examples_fingerprint(&data.valid));
    let checkpoints = session.checkpoints(identity, config.keep_checkpoints);
    let plan = plan(config, data.train.len(), group)?;
    let quantization = quantization::prepare(model, config, &names)?;
    let resumed = if config.resume { checkpoints.load_latest()? } else { None };
    if config.resume && resumed.is_none() {
        log::warn!("{output}: there is no checkpoint yet, so the run starts from the beginning");
    }
    let resumed_from = resumed.as_ref().map_or(0, |state| state.step);
    let mut hooks: Vec<Box<dyn StepHook>> = Vec::new();
    if config.method == Method::Adalora {
        hooks.push(Box::new(RankAllocator::new(config, &names, plan.steps)?));
    }
    let masks = SparsityMasks::new(model, &pruned_layers(source)?, &names)?;
    if !masks.is_empty() {
        hooks.push(Box::new(masks));
    }
    let inner = factory.create(config.task(data.pad_id), &data, &plan, observer)?;
    let (task, plan) = task(inner, quantization, plan);
    let (data, checkpoints) = match (config.objective(), &data.train) {
        (Objective::Dpo { .. }, TrainingRows::InMemory(train)) => {
            let path = session.checkpoint_folder().join(reference::FILE);
            let reference =
                ReferenceLogProbs::load_or_compute(model, &data, train, &path, start, &plan, observer)?;
            let checkpoints = checkpoints.with_shared_file(reference::FILE, reference.to_json()?);
            (reference.attach_to(data), checkpoints)
        }
        _ => (data, checkpoints),
    };
    let trainable = Trainable { names: &names, hooks, resumed };
    let outcome = fit(&task, model, trainable, &data, &plan, &checkpoints, observer)?;
    let training = train::report::Report::new(&task, model, &names, &plan, resumed_from, outcome)?;
    if let Some(quantization) = &task.quantization {
        quantization.apply(model)?;
        whole::keep(model);
    }
    let ranks = finalize(model)?;
    prompt::precompute(model)?;
    let [truncated_rows, dropped_rows] = dataset::skipped(skipped, &data.train, config);
    let report = Report {
        training,
        truncated_rows,
        dropped_rows,
        adapter_path: session.folder().to_owned(),
        rank_pattern: (!ranks.is_empty()).then(|| ranks.clone()),
    };
    session.finish(config, &report, |folder| match &task.quantization {
        Some(quantization) => folder::save_quantized(source, folder, model, quantization.formats()),
        None => save(model, source, config, ranks, folder),
    })?;
    // The result is safe on disk: a request to stop has nothing left to stop.
    let path = session.folder().to_owned();
    let _ = observer.on(&Event::Finished { step: report.training.steps, path });
    Ok(report)
}

/// Checks whether the output folder is free for a run with this configuration, before a model is loaded.
///
/// # Errors
/// A folder that holds a run, unless `overwrite` or `resume` is set; with `resume`, one without checkpoints.
pub fn check_output(config: &TrainingConfig) -> Result<()> {
    Session::check(required("output", config.output.as_deref())?, &results(), if_exists(config))
}

/// Files that a run writes, of whatever method.
fn results() -> Vec<&'static str> {
    [weights::FILE, "config.json"].into_iter().chain(adapters::formats::FILES).collect()
}

fn if_exists(config: &TrainingConfig) -> IfExists {
    IfExists::from_settings(config.resume, config.overwrite)
}

/// Resolves the settings for `examples` training examples.
fn plan(config: &TrainingConfig, examples: usize, group: Group) -> Result<Plan> {
    config.settings().plan(examples, config.lr_multipliers(), config.lora_dropout > 0.0, group)
}

/// Checks `config` and its data without training, and returns statistics of the data.
///
/// # Errors
/// Those of [`run`] that can be found before the first step.
pub fn validate(
    model: &mut Model,
    tokenizer: &Tokenizer,
    config: &TrainingConfig,
    observer: &mut dyn Observer,
) -> Result<DataReport> {
    config.validate()?;
    let report = dataset::statistics(tokenizer, config, observer)?;
    let names = prepare_parameters(model, tokenizer, &without_svd(config))?;
    quantization::prepare(model, config, &names)?;
    attach::detach(model)?;
    Ok(report)
}

/// Estimates the memory of [`run`] by measuring two short rows.
///
/// # Errors
/// Those of [`run`] that can be found before the first step; a budget in which not even one row fits.
pub fn estimate_memory(
    model: &mut Model,
    tokenizer: &Tokenizer,
    config: &TrainingConfig,
    observer: &mut dyn Observer,
) -> Result<MemoryEstimate> {
    config.validate()?;
    let Dataset { data, .. } = Dataset::read(tokenizer, config, model.vocab_size(), observer)?;
    let plan = plan(config, data.train.len(), Group::ALONE)?;
    let found = prepare_parameters(model, tokenizer, &without_svd(config)).and_then(|names| {
        let quantization = quantization::prepare(model, config, &names)?;
        let (task, plan) = task(config.task(data.pad_id), quantization, plan);
        memory::estimate_memory(&task, model, &names, &plan, &data)
    });
    attach::detach(model)?;
    found
}

/// Returns the task with rounded weights, and the settings of the loop around it.
fn task<T>(task: T, quantization: Option<FakeQuantization>, plan: Plan) -> (QuantizationAware<T>, Plan) {
    // Rounded weights bring their own checkpointing, which knows them by other names.
    let inside = if quantization.is_some() { plan.grad_checkpoint } else { 0 };
    let plan = Plan { grad_checkpoint: plan.grad_checkpoint - inside, ..plan };
    (QuantizationAware { task, quantization, grad_checkpoint: inside }, plan)
}

/// Returns `config` without `PiSSA`, whose SVD is slow and does not affect the result of a check.
fn without_svd(config: &TrainingConfig) -> TrainingConfig {
    TrainingConfig { lora_init: LoraInit::Default, ..config.clone() }
}

/// Attaches the adapters or prepares the weights to train, and returns the names of the trained parameters.
fn prepare_parameters(
    model: &mut Model,
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
        (Some(folder), _) => load_init_adapter(folder, model, config)?,
        (None, Some(kind)) => prompt::attach(model, tokenizer, kind, config)?,
        (None, None) => attach::attach(model, &config.adapter_settings())?,
    }
    Ok(attach::parameter_names(model))
}

/// Attaches the adapter in `folder` and makes it trainable.
fn load_init_adapter(folder: &str, model: &mut Model, config: &TrainingConfig) -> Result<()> {
    let wanted = config.method.name();
    let found = match adapters::load(Path::new(folder), model)? {
        StoredAdapter::Full(_) => "full",
        StoredAdapter::LowRank(adapter) => {
            // As attached: what equals the model's own need not be saved.
            let attached = Adapter::from_network(model, None)?;
            adapters::formats::check(&attached, config.adapter_format)
                .map_err(|error| Error::Config(format!("init_adapter: {folder}: {error}")))?;
            adapter.kind()
        }
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

/// Writes the adapter, or a complete model folder after full fine-tuning.
fn save(
    model: &mut Model,
    source: &Path,
    config: &TrainingConfig,
    ranks: BTreeMap<String, u32>,
    target: &Path,
) -> Result<()> {
    if config.method == Method::Full {
        folder::save(source, target, model)?;
        return copy_report(source, target);
    }
    let base = config.model_path.clone().unwrap_or_else(|| source.display().to_string());
    if let (Some(kind), Some(prompt)) = (config.method.prompt(), model.prompt_mut()) {
        let (embeddings, place) = ((*prompt.embedding).clone(), prompt.shape);
        return SoftPrompt { kind, embeddings }.write(target, place, &base);
    }
    let adapter = Adapter { ranks, ..Adapter::from_network(model, Some(base))? };
    adapters::write(target, &adapter, config.adapter_format, Some(model))
}
