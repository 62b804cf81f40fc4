//! From settings to the numbers of the training loop.

use super::config::TrainingConfig;
use crate::kernels::group::Group;
use crate::kernels::on_cpu;
use crate::train::batches::batches_per_epoch;
use crate::train::evaluate::EvaluationPlan;
use crate::train::optimizer::{Optimizer, Settings};
use crate::train::plan::Plan;
use crate::train::schedule::{Course, Schedule, parse_table};
use crate::train::watch::Patience;
use crate::{Error, Result};

/// How the processes of `group` together train as `config` says on so many rows, or pairs, padded with `pad`.
///
/// # Errors
/// As [`check`].
pub(super) fn plan(config: &TrainingConfig, rows: usize, pad: u32, group: Group) -> Result<Plan> {
    let batch_size = config.batch_size * group.size();
    let batches = batches_per_epoch(rows, batch_size) as f64 * config.epochs;
    let steps = config.iters.unwrap_or_else(|| (batches / config.grad_accumulation as f64).ceil() as u64);
    Ok(Plan {
        steps,
        objective: config.objective(),
        batch_size,
        accumulation: config.grad_accumulation,
        memory_budget: config.memory_budget_gb.map(|budget| (budget * 1e9) as u64),
        lr: config.lr,
        lr_factors: config.lr_factors(),
        course: course(config)?,
        warmup_steps: (steps as f64 * config.warmup_ratio).round() as u64,
        optimizer: optimizer(config)?,
        max_grad_norm: config.max_grad_norm as f32,
        seed: config.seed,
        grad_checkpoint: config.grad_checkpoint,
        // MLX would take the mask that a block draws again for the first one, and keep that.
        keep_graphs: !on_cpu() && (config.grad_checkpoint == 0 || config.lora_dropout == 0.0),
        neftune_alpha: config.neftune_alpha.map(|alpha| alpha as f32),
        patience: config
            .early_stopping_patience
            .map(|evaluations| Patience { evaluations, threshold: config.early_stopping_threshold }),
        keep_best: config.keep_best,
        eval_every: config.eval_every,
        save_every: config.save_every,
        evaluation: EvaluationPlan {
            batch_size,
            group,
            max_batches: config.eval_batches,
            max_seq_length: config.max_seq_length,
            pad,
        },
    })
}

/// Checks the settings of the optimizer, the schedule and the loop.
///
/// # Errors
/// The first key at fault.
pub(super) fn check(config: &TrainingConfig) -> Result<()> {
    let ratio = 0.0..=1.0;
    let (patience, threshold) = (config.early_stopping_patience, config.early_stopping_threshold);
    let alpha = config.neftune_alpha.unwrap_or(1.0);
    let checks = [
        ("lr_min_ratio", config.lr_min_ratio, ratio.contains(&config.lr_min_ratio), "0 to 1"),
        ("lr_cycles", config.lr_cycles.into(), config.lr_cycles > 0, "above 0"),
        ("lr_power", config.lr_power, config.lr_power > 0.0 && config.lr_power.is_finite(), "above 0"),
        ("lr_decay_ratio", config.lr_decay_ratio, ratio.contains(&config.lr_decay_ratio), "0 to 1"),
        ("early_stopping_patience", patience.unwrap_or(1) as f64, patience != Some(0), "above 0"),
        ("early_stopping_threshold", threshold, threshold >= 0.0 && threshold.is_finite(), "0 or more"),
        ("neftune_alpha", alpha, alpha > 0.0 && alpha.is_finite(), "above 0"),
    ];
    for (key, value, holds, range) in checks {
        if !holds {
            return Err(Error::Config(format!("{key} is {value}, expected {range}")));
        }
    }
    if patience.is_some() && config.eval_every == 0 {
        return Err(Error::Config("early_stopping_patience needs eval_every above 0".into()));
    }
    optimizer(config)?;
    course(config)?;
    Ok(())
}

fn optimizer(config: &TrainingConfig) -> Result<Optimizer> {
    Optimizer::new(&Settings {
        kind: config.optimizer,
        momentum: config.momentum,
        nesterov: config.nesterov,
        weight_decay: config.weight_decay,
        beta1: config.beta1,
        beta2: config.beta2,
        eps: config.eps,
    })
}

fn course(config: &TrainingConfig) -> Result<Course> {
    if config.lr_table.is_some() != (config.schedule == Schedule::Table) {
        return Err(Error::Config("lr_table and schedule \"table\" need each other".into()));
    }
    Ok(Course {
        schedule: config.schedule,
        min_ratio: config.lr_min_ratio,
        cycles: config.lr_cycles,
        power: config.lr_power,
        decay_ratio: config.lr_decay_ratio,
        table: config.lr_table.as_deref().map(parse_table).transpose()?.unwrap_or_default(),
    })
}
