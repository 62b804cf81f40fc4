//! The training loop.

use std::ops::ControlFlow;
use std::thread::scope;

use mlx_rs::Dtype;
use mlx_rs::memory::reset_peak_memory;

use super::checkpoint::{Checkpoints, History, State};
use super::evaluate::{Evaluation, evaluate};
use super::hooks::StepHook;
use super::memory::{self, Limit, PassSize};
use super::optimizer::Memory;
use super::plan::Plan;
use super::task::{Batches, Data, Task};
use super::watch::{Best, Patience};
use crate::kernels::memory::clear_cache;
use crate::nn::Network as _;
use crate::params::{self, Tensors};
use crate::progress::{Event, MemoryEstimate, Observer};
use crate::{Error, Result};
use mlx_rs::module::ModuleParameters as _;

mod advance;

use advance::{Stride, Taken};

/// What to train.
pub struct Trained<'a> {
    /// The parameters.
    pub names: &'a [String],
    /// What takes part in every step, in this order.
    pub hooks: Vec<Box<dyn StepHook>>,
}

/// What became of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Steps taken.
    pub steps: u64,
    /// The curves.
    pub history: History,
    /// `(steps taken, validation loss)` of the result, where the best one was kept.
    pub best: Option<(u64, f64)>,
    /// Memory that was expected.
    pub memory: MemoryEstimate,
}

/// Trains some parameters and returns what became of it; the model holds the result.
///
/// `resumed` is where an earlier run stopped. When the observer stops this one, the state is saved
/// first and the error is [`Error::Interrupted`].
///
/// # Errors
/// A loss that is not a number; what MLX or the disk report.
pub fn fit<T: Task, D: Data<Batch = T::Batch>>(
    task: &T,
    model: &mut T::Model,
    trained: Trained,
    data: &D,
    plan: &Plan,
    checkpoints: &Checkpoints,
    resumed: Option<State>,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let Trained { names, mut hooks } = trained;
    let parameters = params::parameters(model, names)?;
    let mut state = match resumed {
        Some(state) => {
            check(&state, &parameters, plan)?;
            for hook in &mut hooks {
                hook.restore(&state.method, &state.parameters)?;
            }
            state
        }
        None => State {
            step: 0,
            parameters,
            memory: Memory::default(),
            method: Tensors::new(),
            history: History::default(),
            best: None,
            loss_scale: None,
        },
    };
    // Other formats have the range of f32.
    let scaled = model.dtype() == Dtype::Float16;
    state.loss_scale = scaled.then(|| state.loss_scale.unwrap_or_default());
    params::set_parameters(model, &state.parameters)?;
    let outcome = memory::checkpointed(model, names, plan, |model| {
        let (expected, size) = memory::estimate(task, model, &state.parameters, plan, data)?;
        let _limit = Limit::lower(plan.memory_budget)?;
        reset_peak_memory()?;
        scope(|scope| {
            let first = state.step * plan.accumulation;
            let batches = data.batches(plan, first, scope);
            let stride = Stride::new(model, plan, !hooks.is_empty())?;
            let pending = None;
            Run {
                task,
                model,
                data,
                plan,
                checkpoints,
                hooks,
                observer,
                batches,
                expected,
                size,
                stride,
                pending,
            }
            .train(state)
        })
    });
    clear_cache()?;
    outcome
}

/// Whether something done `every` so many steps (0: never) is to be done after `step` steps.
fn is_due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// Refuses a state whose parameters are not those that are to be trained.
fn check(state: &State, parameters: &Tensors, plan: &Plan) -> Result<()> {
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
    if !(fits && plan.optimizer.knows(&state.memory, parameters)) {
        return Err(Error::Training(format!(
            "the checkpoint of step {} does not hold the parameters of this run: it is damaged",
            state.step
        )));
    }
    Ok(())
}

/// A run.
struct Run<'a, T: Task, D> {
    task: &'a T,
    model: &'a mut T::Model,
    data: &'a D,
    plan: &'a Plan,
    checkpoints: &'a Checkpoints,
    hooks: Vec<Box<dyn StepHook>>,
    observer: &'a mut dyn Observer,
    batches: Box<dyn Batches<Batch = T::Batch> + 'a>,
    expected: MemoryEstimate,
    size: PassSize,
    stride: Stride,
    /// What the device may still be busy with.
    pending: Option<Taken>,
}

impl<T: Task, D: Data<Batch = T::Batch>> Run<'_, T, D> {
    fn train(mut self, mut state: State) -> Result<Outcome> {
        let steps = self.plan.steps;
        let started = Event::Started {
            steps,
            first_step: state.step,
            trainable_parameters: state.parameters.values().map(|x| x.size() as u64).sum(),
            total_parameters: self.model.parameters().flatten().values().map(|x| x.size() as u64).sum(),
        };
        self.emit(&mut state, &started)?;
        self.emit(&mut state, &Event::Estimated(self.expected))?;
        loop {
            // First thing, so that a run that stopped between a step and its evaluation makes up for it.
            self.evaluate_if_due(&mut state)?;
            let exhausted = |patience: &Patience| patience.is_exhausted(&state.history.validation_losses);
            let stops = state.step < steps && self.plan.patience.as_ref().is_some_and(exhausted);
            if stops {
                let step = state.step;
                self.emit(&mut state, &Event::Stopped { step })?;
            }
            if stops || state.step == steps {
                self.settle(&mut state)?;
                return self.finish(state);
            }
            self.step(&mut state)?;
            let due = is_due(state.step, self.plan.save_every) && state.step < steps;
            if due && self.plan.group.leads() {
                self.settle(&mut state)?;
                let (step, path) = (state.step, self.checkpoints.save(&state)?);
                self.emit(&mut state, &Event::Checkpoint { step, path })?;
            }
        }
    }

    fn finish(self, state: State) -> Result<Outcome> {
        let State { step, history, best, .. } = state;
        if let Some(best) = &best {
            params::set_parameters(self.model, &best.parameters)?;
        }
        let best = best.map(|best| (best.step, best.loss));
        Ok(Outcome { steps: step, history, best, memory: self.expected })
    }

    fn evaluate_if_due(&mut self, state: &mut State) -> Result<()> {
        let Plan { steps, eval_every, .. } = *self.plan;
        let due = state.step == 0 || state.step == steps || is_due(state.step, eval_every);
        let done = state.history.validation_losses.last().is_some_and(|&(step, _)| step == state.step);
        if !due || done || !self.data.has_validation() {
            return Ok(());
        }
        self.settle(state)?;
        let (data, plan) = (self.data, self.plan);
        let Evaluation { loss, rewards } = loop {
            match evaluate(self.task, self.model, data, plan, self.size, self.observer) {
                Err(Error::Interrupted) => return Err(self.interrupt(state)),
                Err(error) if error.is_out_of_memory() => {
                    let batches: Vec<T::Batch> = data.validation(plan, plan.group, self.size).collect();
                    self.shrink(state, &batches, &error)?;
                }
                other => break other?,
            }
        };
        if !loss.is_finite() {
            return Err(self.diverged(state.step + 1, loss, f64::NAN));
        }
        state.history.validation_losses.push((state.step, loss));
        state.history.validation_rewards.extend(rewards.map(|rewards| (state.step, rewards)));
        if self.plan.keep_best {
            Best::offer(&mut state.best, state.step, loss, &state.parameters);
        }
        let event = Event::Evaluated {
            step: state.step,
            loss,
            perplexity: self.task.perplexity(loss),
            reward_accuracy: rewards.map(|rewards| rewards.accuracy),
            reward_margin: rewards.map(|rewards| rewards.margin),
        };
        self.emit(state, &event)
    }

    fn emit(&mut self, state: &mut State, event: &Event) -> Result<()> {
        match self.observer.on(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(self.interrupt(state)),
        }
    }

    /// Saves what there is; the error to return.
    fn interrupt(&mut self, state: &mut State) -> Error {
        if state.step == 0 || !self.plan.group.leads() {
            return Error::Interrupted;
        }
        // What was taken belongs to what is saved.
        if let Err(error) = self.settle_at_last(state) {
            return error;
        }
        match self.checkpoints.save(state) {
            Ok(path) => {
                // The observer has already asked to stop; this only tells where to resume.
                let _ = self.observer.on(&Event::Checkpoint { step: state.step, path });
                Error::Interrupted
            }
            Err(error) => error,
        }
    }

    fn diverged(&self, step: u64, loss: f64, grad_norm: f64) -> Error {
        Error::Training(format!(
            "the loss is {loss} and the gradient norm {grad_norm} at step {} of {}; the checkpoint before is \
             intact. Try a lower lr, or check the weights and data for values that are not finite",
            step, self.plan.steps
        ))
    }
}
