//! One optimizer step.
//!
//! On a CPU, each step is evaluated before the next one begins. On a GPU, the next step is queued before the
//! metrics of the current one are read, so that the device never waits for the host; whether the metrics are
//! finite is decided on the device, where an update is skipped if they are not.

use std::time::Instant;

use mlx_rs::Array;
use mlx_rs::memory::peak_memory;

use super::accumulation::{AccumulationOptions, LocalGradients, ReducedGradients, accumulate, read_losses};
use super::pipeline::{PendingStep, StepPipeline};
use super::trainer::Trainer;
use crate::kernels::memory::clear_cache;
use crate::params::{self, Tensors};
use crate::progress::Event;
use crate::train::checkpoint::TrainingState;
use crate::train::gradients::clipping::clip_factor;
use crate::train::gradients::loss_scale::LossScale;
use crate::train::optimizer::StepOptions;
use crate::train::plan::Plan;
use crate::train::task::batch::Batch;
use crate::train::task::data::DataModule;
use crate::train::task::max_tokens::MaxTokens;
use crate::train::task::rewards::RewardMetrics;
use crate::train::task::{Loss, Task, Totals};
use crate::{Error, Result, kernels};

/// Metrics of a step.
struct StepMetrics {
    step: u64,
    lr: f64,
    seconds: f64,
    tokens: u64,
    loss: f64,
    grad_norm: f64,
    rewards: Option<RewardMetrics>,
}

impl<T: Task, D: DataModule<Batch = T::Batch>> Trainer<'_, T, D> {
    /// Runs one optimizer step. Parameters change only if loss and gradients are finite.
    pub(super) fn step(&mut self, state: &mut TrainingState) -> Result<()> {
        let started = Instant::now();
        let scale = state.loss_scale.map(|scale| scale.scale);
        let gradients = self.accumulate_gradients(state, scale)?;
        let lr =
            self.plan.lr_schedule.lr_at(state.step, self.plan.steps, self.plan.warmup_steps, self.plan.lr);
        if self.pipeline.is_async {
            let LocalGradients { losses, grads, tokens } = gradients;
            let grad_norm = params::norm(&grads)?;
            self.update_async(state, grads, lr, &grad_norm, &losses)?;
            state.step += 1;
            let pending = PendingStep { step: state.step, lr, started, tokens, losses, grad_norm };
            return self.pending.replace(pending).map_or(Ok(()), |before| self.finish_pending(state, before));
        }
        let ReducedGradients { loss, rewards, mut grads, tokens } =
            gradients.all_reduce(self.plan.group, &state.parameters)?;
        let unscale = scale.map_or(1.0, f32::recip);
        for hook in &self.hooks {
            hook.on_gradients(&state.parameters, &mut grads, unscale.recip())?;
        }
        let grad_norm = params::norm(&grads)?.multiply(Array::from_f32(unscale))?;
        let clip = clip_factor(&grad_norm, self.plan.max_grad_norm)?;
        kernels::eval([&grad_norm, &clip])?;
        let (grad_norm, clip) = (f64::from(grad_norm.item_exact::<f32>()), clip.item_exact::<f32>());
        let finite = loss.is_finite() && grad_norm.is_finite();
        // A loss that is not finite is not the fault of the scale.
        let overflow =
            loss.is_finite() && !finite && state.loss_scale.as_mut().is_some_and(LossScale::shrink);
        if !(finite || overflow) {
            return Err(self.diverged(state.step + 1, loss, grad_norm));
        }
        if !overflow {
            self.update(state, grads, lr, unscale * clip)?;
        }
        state.step += 1;
        let seconds = started.elapsed().as_secs_f64();
        let metrics = StepMetrics { step: state.step, lr, seconds, tokens, loss, grad_norm, rewards };
        record(state, &metrics);
        if overflow {
            let loss_scale = state.loss_scale.unwrap_or_default().scale.into();
            let (step, steps) = (state.step, self.plan.steps);
            return self.emit(state, &Event::Overflow { step, steps, loss, loss_scale });
        }
        self.emit_step(state, &metrics)
    }

    /// Waits for the pending step and reports its metrics.
    pub(super) fn flush(&mut self, state: &mut TrainingState) -> Result<()> {
        self.pending.take().map_or(Ok(()), |pending| self.finish_pending(state, pending))
    }

    /// As [`flush`](Self::flush), when the observer has already asked to stop.
    pub(super) fn flush_interrupted(&mut self, state: &mut TrainingState) -> Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let metrics = self.read_metrics(pending)?;
        record(state, &metrics);
        let event = self.step_event(&metrics)?;
        let _ = self.observer.on(&event);
        Ok(())
    }

    fn finish_pending(&mut self, state: &mut TrainingState, pending: PendingStep) -> Result<()> {
        let metrics = self.read_metrics(pending)?;
        record(state, &metrics);
        self.emit_step(state, &metrics)
    }

    /// Waits for the metrics of a step.
    fn read_metrics(&mut self, pending: PendingStep) -> Result<StepMetrics> {
        let PendingStep { step, lr, started, tokens, losses, grad_norm } = pending;
        let (loss, rewards) = read_losses(&losses)?;
        kernels::eval([&grad_norm])?;
        let grad_norm = f64::from(grad_norm.item_exact::<f32>());
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(self.diverged(step, loss, grad_norm));
        }
        // The device was busy with the step before until its figures were read.
        let seconds = started.max(self.pipeline.last_read).elapsed().as_secs_f64();
        self.pipeline.last_read = Instant::now();
        Ok(StepMetrics { step, lr, seconds, tokens, loss, grad_norm, rewards: rewards.mean() })
    }

    fn emit_step(&mut self, state: &mut TrainingState, metrics: &StepMetrics) -> Result<()> {
        let event = self.step_event(metrics)?;
        self.emit(state, &event)
    }

    fn step_event(&self, metrics: &StepMetrics) -> Result<Event> {
        let &StepMetrics { step, lr, seconds, tokens, loss, grad_norm, rewards } = metrics;
        Ok(Event::Step {
            step,
            steps: self.plan.steps,
            epoch: self.batches.epoch(step * self.plan.accumulation),
            loss,
            lr,
            grad_norm,
            tokens_per_second: tokens as f64 / seconds,
            peak_memory: peak_memory()? as u64,
            reward_accuracy: rewards.map(|rewards| rewards.accuracy),
            reward_margin: rewards.map(|rewards| rewards.margin),
        })
    }

    /// Updates the parameters by finite gradients, and runs the hooks.
    fn update(&mut self, state: &mut TrainingState, grads: Tensors, lr: f64, grad_scale: f32) -> Result<()> {
        let options = StepOptions {
            lr,
            lr_multipliers: &self.plan.lr_multipliers,
            grad_scale: Array::from_f32(grad_scale),
            is_finite: None,
            graphs: &self.pipeline.update_graphs,
        };
        let hook_grads = (!self.hooks.is_empty()).then(|| grads.clone());
        let on_update = |values: &Tensors| Ok(params::set_parameters(self.model, values)?);
        let TrainingState { parameters, optimizer, .. } = state;
        self.plan.optimizer.step(parameters, grads, optimizer, &options, on_update)?;
        if let Some(grads) = hook_grads {
            state.hooks.clear();
            for hook in &mut self.hooks {
                hook.after_step(state.step + 1, &grads, grad_scale, &mut state.parameters)?;
                state.hooks.extend(hook.state());
            }
            params::set_parameters(self.model, &state.parameters)?;
        }
        state.loss_scale.iter_mut().for_each(LossScale::grow);
        Ok(())
    }

    /// Queues an update that takes effect only if the device finds gradients and losses finite.
    fn update_async(
        &mut self,
        state: &mut TrainingState,
        grads: Tensors,
        lr: f64,
        grad_norm: &Array,
        losses: &[Loss],
    ) -> Result<()> {
        let sum = losses.iter().try_fold(grad_norm.clone(), |sum, share| sum.add(&share.value))?;
        // Nothing changes any more after a step that failed and is not yet told of.
        let finite = match &self.pipeline.all_finite {
            Some(before) => before.logical_and(sum.is_finite()?)?,
            None => sum.is_finite()?,
        };
        self.pipeline.all_finite = Some(finite.clone());
        let options = StepOptions {
            lr,
            lr_multipliers: &self.plan.lr_multipliers,
            grad_scale: clip_factor(grad_norm, self.plan.max_grad_norm)?,
            is_finite: Some(finite),
            graphs: &self.pipeline.update_graphs,
        };
        let on_update = |values: &Tensors| Ok(params::set_parameters(self.model, values)?);
        let TrainingState { parameters, optimizer, .. } = state;
        self.plan.optimizer.step(parameters, grads, optimizer, &options, on_update)
    }

    /// Computes the gradients of the next step, in as few forward passes as memory allows.
    fn accumulate_gradients(
        &mut self,
        state: &mut TrainingState,
        loss_scale: Option<f32>,
    ) -> Result<LocalGradients> {
        let Plan { accumulation, group, .. } = *self.plan;
        let numbers = state.step * accumulation..(state.step + 1) * accumulation;
        let batches = |run: &mut Self| -> Result<_> {
            let batches = run.batches.get(numbers.clone(), run.max_tokens)?;
            run.task.prepare(run.model, batches, numbers.start)
        };
        let mut own = batches(self)?;
        // All passes of all processes share one divisor, so a token counts the same in each of them.
        let own_totals =
            own.iter().flatten().fold(Totals::default(), |sum, batch| sum + self.task.totals(batch));
        let totals = Totals(group.all_sum_f64(own_totals.0)?);
        loop {
            let StepPipeline { gradient_graphs: graphs, is_async, .. } = &self.pipeline;
            let options = AccumulationOptions { plan: self.plan, loss_scale, graphs, is_async: *is_async };
            let step = (state.step, &own[..], totals);
            match accumulate(self.task, self.model, &state.parameters, &options, step, self.observer) {
                Err(Error::Interrupted) => return Err(self.interrupt(state)),
                Err(error) if error.is_out_of_memory() && self.pending.is_some() => {
                    // Perhaps there is enough without the step before.
                    self.flush(state)?;
                    clear_cache()?;
                }
                Err(error) if error.is_out_of_memory() => {
                    self.halve_max_tokens(state, own.iter().flatten(), &error)?;
                    own = batches(self)?;
                }
                other => return other,
            }
        }
    }

    /// Halves the number of tokens per forward pass after an out-of-memory `error`.
    pub(super) fn halve_max_tokens<'b>(
        &mut self,
        state: &mut TrainingState,
        batches: impl IntoIterator<Item = &'b T::Batch> + Clone,
        error: &Error,
    ) -> Result<()>
    where
        T::Batch: 'b,
    {
        let longest = batches.clone().into_iter().map(Batch::row_length).max().unwrap_or(0);
        let Some(max_tokens) = MaxTokens::half_of(batches) else {
            return Err(Error::Hardware(format!(
                "memory ran out with a single row of {longest} tokens ({error}); lower max_seq_length, or set \
                 grad_checkpoint or bits"
            )));
        };
        self.max_tokens = max_tokens;
        clear_cache()?;
        self.emit(state, &Event::OutOfMemory { step: state.step + 1, rows: max_tokens.rows(longest) })
    }
}

fn record(state: &mut TrainingState, metrics: &StepMetrics) {
    state.history.train_losses.push(metrics.loss);
    state.history.train_rewards.extend(metrics.rewards);
    state.history.trained_tokens += metrics.tokens;
    state.history.training_secs += metrics.seconds;
}
