//! Contrastive fine-tuning: from a loaded model and a configuration to an adapter or a model folder.

use std::path::{Path, PathBuf};

use mlx_rs::module::ModuleParameters as _;
use serde::Serialize;

use super::config::{ClipConfig, Method, Tower};
use super::dataset::{DataReport, Dataset};
use super::load::Processor;
use super::loader::PairData;
use super::loss::LossKind;
use super::save::{Format, save};
use super::task::{ClampTemperature, ContrastiveTask};
use crate::adapters::finalize::finalize;
use crate::adapters::{self, Adapter, attach};
use crate::io::output::IfExists;
use crate::io::weights;
use crate::kernels::group::Group;
use crate::models::clip::Clip;
use crate::nn::Network as _;
use crate::progress::{Event, Observer, Quiet};
use crate::train::fit::{Trainable, fit};
use crate::train::hooks::StepHook;
use crate::train::optimizer::lr_multipliers::LrMultipliers;
use crate::train::session::Session;
use crate::{Error, Result, train};

/// Report of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Report of the training loop.
    #[serde(flatten)]
    pub training: train::report::Report,
    /// Numbers of the data.
    pub data: DataReport,
    /// Folder of the result.
    pub output: PathBuf,
}

/// Fine-tunes `model`, loaded from the folder `source`, as `config` says; `data` and `output` must be set. `model` holds
/// the result afterwards.
///
/// # Errors
/// An invalid configuration; unusable data or an unusable output folder; a loss that is not finite;
/// [`Error::Interrupted`] if the observer stops the run, after a checkpoint has been saved.
pub fn run(
    model: &mut Clip,
    processor: &Processor,
    source: &Path,
    config: &ClipConfig,
    observer: &mut dyn Observer,
) -> Result<Report> {
    config.validate()?;
    let group = Group::join()?;
    let mut quiet = Quiet(observer);
    let observer: &mut dyn Observer = if group.leads() { quiet.0 } else { &mut quiet };
    let loss = config.loss.unwrap_or(LossKind::of(model.kind()));
    loss.check(model)?;
    let dataset = Dataset::read(processor, config)?;
    if config.early_stopping_patience.is_some() && dataset.valid.len() < 2 {
        return Err(Error::Config("early_stopping_patience needs at least two images for validation".into()));
    }
    let data = PairData { dataset: &dataset, processor };
    data.check_validation(&config.settings(), observer)?;
    let session = Session::open(required_output(config)?, source, &results(), if_exists(config), group)?;
    let names = prepare_parameters(model, config)?;
    let identity = session.identity(config.identity(), config.batch_size, &dataset.fingerprint(), source)?;
    let checkpoints = session.checkpoints(identity, config.keep_checkpoints);
    let random = config.lora_dropout > 0.0;
    let plan = config.settings().plan(dataset.train.len(), LrMultipliers::default(), random, group)?;
    let resumed = if config.resume { checkpoints.load_latest()? } else { None };
    let resumed_from = resumed.as_ref().map_or(0, |state| state.step);
    let task = ContrastiveTask { loss };
    let hooks: Vec<Box<dyn StepHook>> = vec![Box::new(ClampTemperature)];
    let trainable = Trainable { names: &names, hooks, resumed };
    let outcome = fit(&task, model, trainable, &data, &plan, &checkpoints, observer)?;
    let training = train::report::Report::new(&task, model, &names, &plan, resumed_from, outcome)?;
    let ranks = finalize(model)?;
    let report = Report { training, data: dataset.report(), output: session.folder().to_owned() };
    session.finish(config, &report, |folder| {
        if config.method == Method::Full {
            return save(source, folder, model, processor, Format::HuggingFace);
        }
        let base = config.model_path.clone().unwrap_or_else(|| source.display().to_string());
        let adapter = Adapter { ranks, is_image_text: true, ..Adapter::from_network(model, Some(base))? };
        adapters::write(folder, &adapter, config.adapter_format, Some(model))
    })?;
    // The result is safe on disk: a request to stop has nothing left to stop.
    let path = session.folder().to_owned();
    let _ = observer.on(&Event::Finished { step: report.training.steps, path });
    Ok(report)
}

/// Checks `config` and its data without training.
///
/// # Errors
/// Those of [`run`] that can be found before the first step; images are not decoded.
pub fn validate(model: &mut Clip, processor: &Processor, config: &ClipConfig) -> Result<DataReport> {
    config.validate()?;
    config.loss.unwrap_or(LossKind::of(model.kind())).check(model)?;
    let report = Dataset::read(processor, config)?.report();
    prepare_parameters(model, config)?;
    attach::detach_adapters(model)?;
    Ok(report)
}

/// Checks whether the output folder is free for a run with this configuration, before a model is loaded.
///
/// # Errors
/// A folder that holds a run, unless `overwrite` or `resume` is set; with `resume`, one without checkpoints.
pub fn check_output(config: &ClipConfig) -> Result<()> {
    Session::check(required_output(config)?, &results(), if_exists(config))
}

fn required_output(config: &ClipConfig) -> Result<&str> {
    config.output.as_deref().ok_or_else(|| Error::Config("output is missing".into()))
}

fn results() -> Vec<&'static str> {
    [weights::FILE, "config.json"].into_iter().chain(adapters::formats::FILES).collect()
}

fn if_exists(config: &ClipConfig) -> IfExists {
    IfExists::from_settings(config.resume, config.overwrite)
}

/// Attaches adapters or selects the weights to train, and returns the names of the trained parameters.
fn prepare_parameters(model: &mut Clip, config: &ClipConfig) -> Result<Vec<String>> {
    attach::detach_adapters(model)?;
    let frozen: Vec<Tower> =
        [Tower::Vision, Tower::Text].into_iter().filter(|tower| config.is_frozen(*tower)).collect();
    let is_trained = |name: &str| !frozen.iter().any(|tower| tower.owns(name));
    if config.method == Method::Full {
        model.visit_quantizable(&mut |path, weight| match weight.format {
            Some(_) if is_trained(path) => Err(Error::Config(format!(
                "method \"full\" trains every weight, but {path} is quantized; load a dense model or train adapters"
            ))),
            _ => Ok(()),
        })?;
        let all = model.parameters().flatten();
        let mut names: Vec<String> =
            all.keys().map(ToString::to_string).filter(|name| is_trained(name)).collect();
        names.sort();
        return Ok(names);
    }
    attach::attach(model, &config.adapter_settings())?;
    model.visit_linears(&mut |path, layer| {
        if !is_trained(path) {
            layer.remove_update();
        }
        Ok(())
    })?;
    Ok(attach::parameter_names(model))
}
