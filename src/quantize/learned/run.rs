//! Training scales and biases of a quantized model.

use std::path::Path;

use mlx_rs::Dtype;
use serde_json::Value;

use super::data::SequenceData;
use super::scales::LearnedLayers;
use super::task::DistillationTask;
use super::teacher::Teacher;
use crate::kernels::group::Group;
use crate::kernels::on_cpu;
use crate::models::Model;
use crate::nn::network::GradientCheckpointing;
use crate::nn::quantized::is_float;
use crate::params::Tensors;
use crate::progress::Observer;
use crate::quantize::config::QuantizeConfig;
use crate::train::checkpoint::CheckpointManager;
use crate::train::fit::{Trainable, fit};
use crate::train::optimizer::OptimizerKind;
use crate::train::optimizer::lr_multipliers::LrMultipliers;
use crate::train::settings::Settings;
use crate::{Error, Result};

/// Subfolder of the checkpoints with those of the training steps.
const STEPS: &str = "steps";

/// Trains scales and biases of `model` towards the predictions of `teacher`. A run in the checkpoint folder `folder` with the
/// same `identity` is continued if `config` says so. Returns the divergence on sequences set aside, if there were enough, before
/// and after.
///
/// # Errors
/// No layer to train; a loss that is not finite; files that cannot be written; [`Error::Interrupted`], after a checkpoint has
/// been saved.
pub(in crate::quantize) fn learn(
    model: &mut Model,
    sequences: &[Vec<u32>],
    teacher: &Teacher,
    config: &QuantizeConfig,
    (folder, identity): (&Path, Value),
    observer: &mut dyn Observer,
) -> Result<Option<[f64; 2]>> {
    let data = SequenceData::split(sequences);
    let settings = settings(config);
    let plan = settings.plan(data.train.len(), LrMultipliers::default(), false, Group::ALONE)?;
    let layers = LearnedLayers::begin(model)?;
    // As in fine-tuning: CPUs have no faster arithmetic in half precision, and gradients do not overflow.
    let narrow = if on_cpu() { widen(model, &layers)? } else { Tensors::new() };
    let names = layers.names();
    let checkpointing = (config.learned_grad_checkpoint > 0).then(|| GradientCheckpointing {
        every: config.learned_grad_checkpoint,
        trained: layers.weights().collect(),
    });
    let temperature = config.learned_temperature as f32;
    let task = DistillationTask { layers: &layers, sequences, teacher, temperature, checkpointing };
    let checkpoints = CheckpointManager::new(folder.join(STEPS), identity, settings.keep_checkpoints);
    let resumed = if config.resume { checkpoints.load_latest()? } else { None };
    let trainable = Trainable { names: &names, hooks: Vec::new(), resumed };
    let outcome = fit(&task, model, trainable, &data, &plan, &checkpoints, observer)?;
    let before = outcome.history.validation_losses.first().map(|&(_, loss)| loss);
    let divergence = before.zip(outcome.best.map(|(_, loss)| loss));
    let helped = divergence.is_none_or(|(before, after)| after < before);
    if !helped {
        log::warn!(
            "learning did not bring the model closer to the original one on text that it did not learn from, so scales and \
             biases stay as they were: more calibration text (calibration_sequences) or a lower learned_lr would help"
        );
    }
    layers.finish(model, helped)?;
    restore(model, narrow)?;
    Ok(divergence.map(|(before, after)| [before, after.min(before)]))
}

fn settings(config: &QuantizeConfig) -> Settings {
    Settings {
        epochs: config.learned_epochs,
        lr: config.learned_lr,
        batch_size: config.learned_batch_size,
        optimizer: OptimizerKind::Adam,
        seed: config.seed,
        eval_every: 32,
        eval_batches: 0,
        save_every: 16,
        // The steps of Adam do not depend on the size of gradients.
        max_grad_norm: 0.0,
        ..Settings::default()
    }
}

/// Casts all parameters to float32 but what is packed and learned. Returns them as they were.
fn widen(model: &mut Model, layers: &LearnedLayers) -> Result<Tensors> {
    let mut narrow = Tensors::new();
    model.parameters_mut().flatten().into_iter().try_for_each(|(name, slot)| -> Result<()> {
        let is_learned =
            name.rsplit_once('.').is_some_and(|(path, leaf)| leaf != "bias" && layers.contains(path));
        if is_float(slot.dtype()) && slot.dtype() != Dtype::Float32 && !is_learned {
            let wide = slot.as_dtype(Dtype::Float32)?;
            narrow.insert(name.to_string(), std::mem::replace(slot, wide));
        }
        Ok(())
    })?;
    Ok(narrow)
}

fn restore(model: &mut Model, narrow: Tensors) -> Result<()> {
    let mut parameters = model.parameters_mut().flatten();
    for (name, value) in narrow {
        let slot = parameters.get_mut(name.as_str());
        **slot.ok_or_else(|| Error::Training(format!("the model has lost its parameter {name}")))? = value;
    }
    Ok(())
}
