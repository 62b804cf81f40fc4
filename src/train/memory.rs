//! Estimates the memory of a run, and how many rows fit through the model at once.
//!
//! The estimate is measured, not derived from the architecture: a training step on two short rows is run and
//! discarded, and its memory beyond the weights is extrapolated to longer rows and larger batches. This covers
//! whatever kernels the device uses.

use mlx_rs::Array;
use mlx_rs::memory::{memory_limit, peak_memory, reset_peak_memory, set_memory_limit};

use super::gradients::{gradients, inputs};
use super::optimizer::lr_multipliers::LrMultipliers;
use super::optimizer::{OptimizerState, StepOptions};
use super::plan::Plan;
use super::task::data::DataModule;
use super::task::max_tokens::MaxTokens;
use super::task::{ForwardOptions, Task};
use crate::kernels::graphs::Graphs;
use crate::kernels::memory::{active, clear_cache};
use crate::nn::network::{GradientCheckpointing, Network};
use crate::params::{self, Tensors};
use crate::progress::MemoryEstimate;
use crate::{Error, Result, kernels};

/// Maximum length of the rows used for measuring, in tokens.
const MAX_PROBE_TOKENS: usize = 512;

/// Activation memory of a row in bytes, as a quadratic function of its length.
#[derive(Debug, Clone, Copy)]
struct ActivationMemory {
    per_token: f64,
    /// Non-zero where attention scores are stored.
    per_token_squared: f64,
}

impl ActivationMemory {
    /// Fits two measurements `(tokens, bytes)`, the shorter row first.
    fn fit((short, less): (f64, f64), (long, more): (f64, f64)) -> Self {
        let squared = (more / long - less / short) / (long - short).max(1.0);
        let per_token_squared = if squared.is_finite() { squared.max(0.0) } else { 0.0 };
        Self { per_token: (more / long - per_token_squared * long).max(0.0), per_token_squared }
    }

    fn bytes(self, tokens: usize) -> u64 {
        let tokens = tokens as f64;
        (tokens * (self.per_token + self.per_token_squared * tokens)).ceil() as u64
    }
}

/// Estimates the memory of training `parameters` of `model` and the number of tokens per forward pass that fits.
/// If not even one row fits, logs a warning, or fails if `plan` has a memory budget.
///
/// # Errors
/// [`Error::Config`] if not even one row fits in the budget; errors from MLX.
pub(super) fn fit_batch<T: Task, D: DataModule<Batch = T::Batch>>(
    task: &T,
    model: &mut T::Model,
    parameters: &Tensors,
    plan: &Plan,
    data: &D,
) -> Result<(MemoryEstimate, MaxTokens)> {
    let keeps_best = plan.keep_best && data.has_validation();
    if data.is_empty() {
        return Err(Error::Dataset("there are no rows to train on".into()));
    }
    let time = data.longest_row();
    let long = time.min(MAX_PROBE_TOKENS);
    let mut probe = |length: usize| measure_activations(task, model, parameters, &data.probe_batch(length));
    let short = long.div_ceil(2);
    // The first pass also packs weights and fills caches.
    probe(short)?;
    let (less, _) = probe(short)?;
    let (more, grads) = probe(long)?;
    let activation_memory = ActivationMemory::fit((short as f64, less as f64), (long as f64, more as f64));
    let (moments, update) = measure_optimizer(parameters, grads, plan)?;
    clear_cache()?;
    let weights = active()? as u64;
    let trained: u64 = parameters.values().map(|x| x.nbytes() as u64).sum();
    // A kept graph makes everything anew before anything old goes.
    let update =
        if plan.keep_graphs && !model.is_data_dependent() { update.max(trained + moments) } else { update };

    let available = plan.memory_budget.unwrap_or(memory_limit()? as u64);
    let row = activation_memory.bytes(time).max(1);
    let rows_per_example = data.rows_per_example();
    let own_share = plan.batch_size.div_ceil(plan.group.size());
    let batch_rows = rows_per_example * own_share.min(data.len()).max(1);
    let expected = |rows: usize| {
        let summed = if rows < batch_rows || plan.accumulation > 1 { 2 } else { 1 };
        let optimizer = moments + trained * (summed + u64::from(keeps_best));
        let activations = rows as u64 * row;
        // Memory of dead activations is kept for the next pass, even while parameters are updated.
        let peak = weights + optimizer + activations + update;
        MemoryEstimate { weights, optimizer, activations, update, peak, available, rows }
    };
    // What is not foreseen needs room too.
    let reserve = available / 16;
    let fitting = (rows_per_example..=batch_rows)
        .rev()
        .step_by(rows_per_example)
        .map(expected)
        .find(|expected| expected.peak + reserve <= available);
    let expected = match (fitting, plan.memory_budget) {
        (Some(expected), _) => expected,
        (None, Some(budget)) => {
            let needed = expected(rows_per_example);
            return Err(Error::Config(format!(
                "memory_budget_gb is {:.3}, but with one {} of {time} tokens at a time this run needs about {:.3}: \
                 {:.3} for the weights, {:.3} for gradients and optimizer, {:.3} for the row. Raise it, lower \
                 max_seq_length, or set grad_checkpoint or bits",
                gigabytes(budget),
                if rows_per_example > 1 { "pair" } else { "row" },
                gigabytes(needed.peak),
                gigabytes(weights),
                gigabytes(needed.optimizer + update),
                gigabytes(row),
            )));
        }
        (None, None) => {
            let needed = expected(rows_per_example);
            log::warn!(
                "this run needs about {:.2} GB of {:.2} GB; lower max_seq_length, or set grad_checkpoint or bits",
                gigabytes(needed.peak),
                gigabytes(available)
            );
            needed
        }
    };
    let size =
        if expected.rows < batch_rows { MaxTokens(expected.rows * time) } else { MaxTokens::UNLIMITED };
    Ok((expected, size))
}

/// Estimates the memory of a run without starting it. `names` are the names of the trained parameters.
///
/// # Errors
/// No rows to train on; a budget in which not even one row fits; errors from MLX.
pub fn estimate_memory<T: Task, D: DataModule<Batch = T::Batch>>(
    task: &T,
    model: &mut T::Model,
    names: &[String],
    plan: &Plan,
    data: &D,
) -> Result<MemoryEstimate> {
    let parameters = params::parameters(model, names)?;
    with_gradient_checkpointing(model, names, plan, |model| {
        Ok(fit_batch(task, model, &parameters, plan, data)?.0)
    })
}

/// Calls `work` with gradient checkpointing enabled on `model` as `plan` says.
pub(super) fn with_gradient_checkpointing<M: Network + ?Sized, T>(
    model: &mut M,
    names: &[String],
    plan: &Plan,
    work: impl FnOnce(&mut M) -> Result<T>,
) -> Result<T> {
    model.set_gradient_checkpointing((plan.grad_checkpoint > 0).then(|| GradientCheckpointing {
        every: plan.grad_checkpoint,
        trained: names.iter().cloned().collect(),
    }));
    let outcome = work(model);
    model.set_gradient_checkpointing(None);
    outcome
}

/// Guard that lowers the memory limit of MLX and restores it when dropped.
pub(super) struct MemoryLimit {
    previous: usize,
}

impl MemoryLimit {
    /// Lowers the limit to `budget` bytes; `None` leaves it unchanged.
    pub(super) fn lower_to(budget: Option<u64>) -> Result<Self> {
        let before = memory_limit()?;
        set_memory_limit(budget.map_or(before, |budget| before.min(budget as usize)))?;
        Ok(Self { previous: before })
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // It was in force before, so it can be again.
        let _ = set_memory_limit(self.previous);
    }
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// Measures the memory in bytes of a forward and backward pass over `batch`, without the model and the gradients.
/// Returns the gradients too.
fn measure_activations<T: Task>(
    task: &T,
    model: &mut T::Model,
    parameters: &Tensors,
    batch: &T::Batch,
) -> Result<(u64, Tensors)> {
    clear_cache()?;
    let before = active()?;
    reset_peak_memory()?;
    let options = ForwardOptions { is_probe: true, ..ForwardOptions::default() };
    let inputs = inputs(task, model, batch, task.totals(batch), &options)?;
    let (loss, grads) = gradients(task, model, parameters, &inputs, &Graphs::default())?;
    kernels::eval(loss.arrays().chain(grads.values()))?;
    let kept: usize = grads.values().map(Array::nbytes).sum();
    Ok((peak_memory()?.saturating_sub(before + kept) as u64, grads))
}

/// Measures the bytes of the optimizer state, and the temporary memory of an optimizer step.
fn measure_optimizer(parameters: &Tensors, grads: Tensors, plan: &Plan) -> Result<(u64, u64)> {
    let (mut parameters, mut state) = (parameters.clone(), OptimizerState::default());
    let mut update = |grads| {
        let options = StepOptions {
            lr: 0.0,
            lr_multipliers: &LrMultipliers::default(),
            grad_scale: Array::from_f32(1.0),
            is_finite: None,
            graphs: &Graphs::default(),
        };
        plan.optimizer.step(&mut parameters, grads, &mut state, &options, |_| Ok(()))
    };
    // The first one has nothing to remember yet.
    update(grads.clone())?;
    clear_cache()?;
    let before = active()?;
    reset_peak_memory()?;
    update(grads)?;
    let besides = peak_memory()?.saturating_sub(before) as u64;
    Ok((state.tensors.values().map(|x| x.nbytes() as u64).sum(), besides))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_goes_through_what_was_measured() {
        let linear = ActivationMemory::fit((256.0, 256e3), (512.0, 512e3));
        assert_eq!(linear.bytes(2048), 2_048_000);
        let square = ActivationMemory::fit((256.0, 256e3 + 65536.0), (512.0, 512e3 + 262_144.0));
        assert_eq!(square.bytes(1024), 1_024_000 + 1_048_576);
        // What is needed whatever the length counts as part of the longer row.
        assert_eq!(ActivationMemory::fit((10.0, 1100.0), (20.0, 1200.0)).bytes(40), 2400);
        assert_eq!(ActivationMemory::fit((1.0, 8.0), (1.0, 8.0)).bytes(3), 24);
    }
}
