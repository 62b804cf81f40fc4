//! The training loop.

use std::ops::ControlFlow;

use super::Outcome;
use super::evaluation::{Evaluation, evaluate};
use super::pipeline::{PendingStep, StepPipeline};
use crate::nn::Network as _;
use crate::params;
use crate::progress::{Event, MemoryEstimate, Observer};
use crate::train::checkpoint::{BestParameters, CheckpointManager, TrainingState};
use crate::train::early_stopping::EarlyStopping;
use crate::train::hooks::StepHook;
use crate::train::plan::Plan;
use crate::train::task::Task;
use crate::train::task::data::{DataLoader, DataModule};
use crate::train::task::max_tokens::MaxTokens;
use crate::{Error, Result};

/// Whether an action that happens `every` so many steps (0: never) is due after `step` steps.
fn is_due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// A training run.
pub(super) struct Trainer<'a, T: Task, D> {
    pub(super) task: &'a T,
    pub(super) model: &'a mut T::Model,
    pub(super) data: &'a D,
    pub(super) plan: &'a Plan,
    pub(super) checkpoints: &'a CheckpointManager,
    pub(super) hooks: Vec<Box<dyn StepHook>>,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) batches: Box<dyn DataLoader<Batch = T::Batch> + 'a>,
    pub(super) expected: MemoryEstimate,
    pub(super) max_tokens: MaxTokens,
    pub(super) pipeline: StepPipeline,
    /// The step that the device may still be computing.
    pub(super) pending: Option<PendingStep>,
}

impl<T: Task, D: DataModule<Batch = T::Batch>> Trainer<'_, T, D> {
    pub(super) fn train(mut self, mut state: TrainingState) -> Result<Outcome> {
        let steps = self.plan.steps;
        let started = Event::Started {
            steps,
            first_step: state.step,
            trainable_parameters: state.parameters.values().map(|x| x.size() as u64).sum(),
            total_parameters: self.model.count_parameters()?,
        };
        self.emit(&mut state, &started)?;
        self.emit(&mut state, &Event::Estimated(self.expected))?;
        loop {
            // First thing, so that a run that stopped between a step and its evaluation makes up for it.
            self.evaluate_if_due(&mut state)?;
            let exhausted =
                |early_stopping: &EarlyStopping| early_stopping.should_stop(&state.history.validation_losses);
            let stops = state.step < steps && self.plan.early_stopping.as_ref().is_some_and(exhausted);
            if stops {
                let step = state.step;
                self.emit(&mut state, &Event::Stopped { step })?;
            }
            if stops || state.step == steps {
                self.flush(&mut state)?;
                return self.finish(state);
            }
            self.step(&mut state)?;
            let due = is_due(state.step, self.plan.save_every) && state.step < steps;
            if due && self.plan.group.leads() {
                self.flush(&mut state)?;
                let (step, path) = (state.step, self.checkpoints.save(&state)?);
                self.emit(&mut state, &Event::Checkpoint { step, path })?;
            }
        }
    }

    fn finish(self, state: TrainingState) -> Result<Outcome> {
        let TrainingState { step, history, best, .. } = state;
        if let Some(best) = &best {
            params::set_parameters(self.model, &best.parameters)?;
        }
        let best = best.map(|best| (best.step, best.loss));
        Ok(Outcome { steps: step, history, best, memory: self.expected })
    }

    fn evaluate_if_due(&mut self, state: &mut TrainingState) -> Result<()> {
        let Plan { steps, eval_every, .. } = *self.plan;
        let due = state.step == 0 || state.step == steps || is_due(state.step, eval_every);
        let done = state.history.validation_losses.last().is_some_and(|&(step, _)| step == state.step);
        if !due || done || !self.data.has_validation() {
            return Ok(());
        }
        self.flush(state)?;
        let (data, plan) = (self.data, self.plan);
        let Evaluation { loss, rewards } = loop {
            match evaluate(self.task, self.model, data, plan, self.max_tokens, self.observer) {
                Err(Error::Interrupted) => return Err(self.interrupt(state)),
                Err(error) if error.is_out_of_memory() => {
                    let batches: Vec<T::Batch> = data.validation(plan, plan.group, self.max_tokens).collect();
                    self.halve_max_tokens(state, &batches, &error)?;
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
            BestParameters::update(&mut state.best, state.step, loss, &state.parameters);
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

    pub(super) fn emit(&mut self, state: &mut TrainingState, event: &Event) -> Result<()> {
        match self.observer.on(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(self.interrupt(state)),
        }
    }

    /// Saves a checkpoint and returns the error to report.
    pub(super) fn interrupt(&mut self, state: &mut TrainingState) -> Error {
        if state.step == 0 || !self.plan.group.leads() {
            return Error::Interrupted;
        }
        // What was taken belongs to what is saved.
        if let Err(error) = self.flush_interrupted(state) {
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

    pub(super) fn diverged(&self, step: u64, loss: f64, grad_norm: f64) -> Error {
        let saved = self.checkpoints.latest_step().map_or_else(
            || "there is no checkpoint yet".to_owned(),
            |step| format!("the checkpoint of step {step} is intact"),
        );
        Error::Training(format!(
            "the loss is {loss} and the gradient norm {grad_norm} at step {step} of {}; {saved}. Try a lower lr, or \
             check the weights and data for values that are not finite",
            self.plan.steps
        ))
    }
}
