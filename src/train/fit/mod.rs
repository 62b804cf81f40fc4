//! The training loop.

mod accumulation;
mod evaluation;
mod pipeline;
mod step;
mod trainer;

use std::thread::scope;

use mlx_rs::Dtype;
use mlx_rs::memory::reset_peak_memory;
use pipeline::StepPipeline;
use trainer::Trainer;

use super::checkpoint::{CheckpointManager, History, TrainingState};
use super::hooks::StepHook;
use super::memory::{self, MemoryLimit};
use super::optimizer::OptimizerState;
use super::plan::Plan;
use super::task::Task;
use super::task::data::DataModule;
use crate::kernels::memory::clear_cache;
use crate::nn::Network as _;
use crate::params::{self, Tensors};
use crate::progress::{MemoryEstimate, Observer};
use crate::{Error, Result};

/// What to train, and where to start.
pub struct Trainable<'a> {
    /// Names of the trained parameters.
    pub names: &'a [String],
    /// Hooks, called in this order in every step.
    pub hooks: Vec<Box<dyn StepHook>>,
    /// State of an earlier run to continue from; `None` for a new run.
    pub resumed: Option<TrainingState>,
}

/// Result of a training run.
#[derive(Debug)]
pub struct Outcome {
    /// Number of steps taken.
    pub steps: u64,
    /// Loss curves.
    pub history: History,
    /// `(steps taken, validation loss)` of the returned parameters, if the best ones are kept.
    pub best: Option<(u64, f64)>,
    /// Memory estimate made before the first step.
    pub memory: MemoryEstimate,
}

/// Trains the given parameters of `model`, which holds the result afterwards.
///
/// If the observer stops the run, a checkpoint is saved before [`Error::Interrupted`] is returned.
///
/// # Errors
/// A loss that is not finite; errors from MLX; files that cannot be written.
pub fn fit<T: Task, D: DataModule<Batch = T::Batch>>(
    task: &T,
    model: &mut T::Model,
    trainable: Trainable,
    data: &D,
    plan: &Plan,
    checkpoints: &CheckpointManager,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let Trainable { names, mut hooks, resumed } = trainable;
    let parameters = params::parameters(model, names)?;
    let mut state = match resumed {
        Some(state) => {
            check_resumed(&state, &parameters, plan)?;
            for hook in &mut hooks {
                hook.load_state(&state.hooks, &state.parameters)?;
            }
            state
        }
        None => TrainingState {
            step: 0,
            parameters,
            optimizer: OptimizerState::default(),
            hooks: Tensors::new(),
            history: History::default(),
            best: None,
            loss_scale: None,
        },
    };
    // Other formats have the range of f32.
    let scaled = model.dtype() == Dtype::Float16;
    state.loss_scale = scaled.then(|| state.loss_scale.unwrap_or_default());
    params::set_parameters(model, &state.parameters)?;
    let outcome = memory::with_gradient_checkpointing(model, names, plan, |model| {
        let (expected, max_tokens) = memory::fit_batch(task, model, &state.parameters, plan, data)?;
        let _limit = MemoryLimit::lower_to(plan.memory_budget)?;
        reset_peak_memory()?;
        scope(|scope| {
            let first = state.step * plan.accumulation;
            let batches = data.batches(plan, first, scope);
            let pipeline = StepPipeline::new(model, plan, !hooks.is_empty())?;
            let pending = None;
            Trainer {
                task,
                model,
                data,
                plan,
                checkpoints,
                hooks,
                observer,
                batches,
                expected,
                max_tokens,
                pipeline,
                pending,
            }
            .train(state)
        })
    });
    clear_cache()?;
    outcome
}

/// Checks that `state` belongs to a run that trains `parameters`.
fn check_resumed(state: &TrainingState, parameters: &Tensors, plan: &Plan) -> Result<()> {
    if state.step > plan.steps {
        return Err(Error::Config(format!(
            "the run ends after {} steps (iters, epochs), but it has already taken {}",
            plan.steps, state.step
        )));
    }
    let shapes = |tensors: &Tensors| -> Vec<(String, Vec<i32>)> {
        tensors.iter().map(|(name, x)| (name.clone(), x.shape().to_vec())).collect()
    };
    let expected = shapes(parameters);
    let best = state.best.as_ref().map(|best| &best.parameters);
    let fits = [&state.parameters].into_iter().chain(best).all(|stored| shapes(stored) == expected);
    if !(fits && plan.optimizer.matches_state(&state.optimizer, parameters)) {
        return Err(Error::Training(format!(
            "the checkpoint of step {} does not hold the parameters of this run: it is damaged",
            state.step
        )));
    }
    Ok(())
}
