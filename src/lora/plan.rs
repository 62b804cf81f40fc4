//! From settings to the numbers of the training loop.

use super::config::TrainingConfig;
use crate::train::evaluate::EvaluationPlan;
use crate::train::fit::{Plan, batches_per_epoch};
use crate::train::optimizer::{Optimizer, Settings};
use crate::train::schedule::{Course, Schedule, parse_table};
use crate::{Error, Result};

/// How `config` trains on `rows` rows padded with `pad`.
///
/// # Errors
/// As [`check`].
pub(super) fn plan(config: &TrainingConfig, rows: usize, pad: u32) -> Result<Plan> {
    let batches = batches_per_epoch(rows, config.batch_size) as f64 * config.epochs;
    let steps = config.iters.unwrap_or_else(|| (batches / config.grad_accumulation as f64).ceil() as u64);
    Ok(Plan {
        steps,
        batch_size: config.batch_size,
        accumulation: config.grad_accumulation,
        lr: config.lr,
        course: course(config)?,
        warmup_steps: (steps as f64 * config.warmup_ratio).round() as u64,
        optimizer: optimizer(config)?,
        max_grad_norm: config.max_grad_norm as f32,
        seed: config.seed,
        eval_every: config.eval_every,
        save_every: config.save_every,
        evaluation: EvaluationPlan {
            batch_size: config.batch_size,
            max_batches: config.eval_batches,
            max_seq_length: config.max_seq_length,
            pad,
        },
    })
}

/// Checks the settings of the optimizer and the schedule.
///
/// # Errors
/// The first key at fault.
pub(super) fn check(config: &TrainingConfig) -> Result<()> {
    let ratio = 0.0..=1.0;
    let checks = [
        ("lr_min_ratio", config.lr_min_ratio, ratio.contains(&config.lr_min_ratio), "0 to 1"),
        ("lr_cycles", config.lr_cycles.into(), config.lr_cycles > 0, "above 0"),
        ("lr_power", config.lr_power, config.lr_power > 0.0 && config.lr_power.is_finite(), "above 0"),
        ("lr_decay_ratio", config.lr_decay_ratio, ratio.contains(&config.lr_decay_ratio), "0 to 1"),
    ];
    for (key, value, holds, range) in checks {
        if !holds {
            return Err(Error::Config(format!("{key} is {value}, expected {range}")));
        }
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
