//! One optimizer step.
//!
//! On a CPU everything is waited for. A GPU is given the next step before the figures of this one are read, so that it
//! never waits for the host; whether they are finite decides there, on the device, what the update leaves behind.

use std::time::Instant;

use mlx_rs::Array;
use mlx_rs::memory::peak_memory;

use super::accumulation::{self as passes, Passed, Summed};
use super::pipeline::{Stride, Taken};
use super::trainer::Run;
use crate::kernels::memory::clear_cache;
use crate::params::{self, Tensors};
use crate::progress::Event;
use crate::train::checkpoint::State;
use crate::train::gradients::clipping::clip_factor;
use crate::train::gradients::loss_scale::LossScale;
use crate::train::optimizer::StepOptions;
use crate::train::plan::Plan;
use crate::train::task::batch::Batch;
use crate::train::task::data::Data;
use crate::train::task::max_tokens::PassSize;
use crate::train::task::rewards::Rewards;
use crate::train::task::{Loss, Task, Totals};
use crate::{Error, Result, kernels};

/// What is told of a step.
struct Figures {
    step: u64,
    lr: f64,
    secs: f64,
    tokens: u64,
    loss: f64,
    grad_norm: f64,
    rewards: Option<Rewards>,
}

impl<T: Task, D: Data<Batch = T::Batch>> Run<'_, T, D> {
    /// One optimizer step. Nothing changes before loss and gradient are known to be finite, on the host or the device.
    pub(super) fn step(&mut self, state: &mut State) -> Result<()> {
        let started = Instant::now();
        let scale = state.loss_scale.map(|scale| scale.scale);
        let passed = self.pass(state, scale)?;
        let lr =
            self.plan.lr_schedule.lr_at(state.step, self.plan.steps, self.plan.warmup_steps, self.plan.lr);
        if self.stride.ahead {
            let Passed { scored, grads, tokens } = passed;
            let grad_norm = params::norm(&grads)?;
            self.update_ahead(state, grads, lr, &grad_norm, &scored)?;
            state.step += 1;
            let taken = Taken { step: state.step, lr, started, tokens, scored, grad_norm };
            return self.pending.replace(taken).map_or(Ok(()), |before| self.tell(state, before));
        }
        let Summed { loss, rewards, mut grads, tokens } = passed.over(self.plan.group, &state.parameters)?;
        let unscale = scale.map_or(1.0, f32::recip);
        for hook in &self.hooks {
            hook.gradients(&state.parameters, &mut grads, unscale.recip())?;
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
        let secs = started.elapsed().as_secs_f64();
        let figures = Figures { step: state.step, lr, secs, tokens, loss, grad_norm, rewards };
        record(state, &figures);
        if overflow {
            let loss_scale = state.loss_scale.unwrap_or_default().scale.into();
            let (step, steps) = (state.step, self.plan.steps);
            return self.emit(state, &Event::Overflow { step, steps, loss, loss_scale });
        }
        self.announce(state, &figures)
    }

    /// Waits for what the device is busy with.
    pub(super) fn settle(&mut self, state: &mut State) -> Result<()> {
        self.pending.take().map_or(Ok(()), |taken| self.tell(state, taken))
    }

    /// As [`settle`](Self::settle), for an observer who has already asked to stop.
    pub(super) fn settle_at_last(&mut self, state: &mut State) -> Result<()> {
        let Some(taken) = self.pending.take() else { return Ok(()) };
        let figures = self.read(taken)?;
        record(state, &figures);
        let event = self.event(&figures)?;
        let _ = self.observer.on(&event);
        Ok(())
    }

    fn tell(&mut self, state: &mut State, taken: Taken) -> Result<()> {
        let figures = self.read(taken)?;
        record(state, &figures);
        self.announce(state, &figures)
    }

    /// The figures of a step, waited for.
    fn read(&mut self, taken: Taken) -> Result<Figures> {
        let Taken { step, lr, started, tokens, scored, grad_norm } = taken;
        let (loss, rewards) = passes::read(&scored)?;
        kernels::eval([&grad_norm])?;
        let grad_norm = f64::from(grad_norm.item_exact::<f32>());
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(self.diverged(step, loss, grad_norm));
        }
        // The device was busy with the step before until its figures were read.
        let secs = started.max(self.stride.read).elapsed().as_secs_f64();
        self.stride.read = Instant::now();
        Ok(Figures { step, lr, secs, tokens, loss, grad_norm, rewards: rewards.mean() })
    }

    fn announce(&mut self, state: &mut State, figures: &Figures) -> Result<()> {
        let event = self.event(figures)?;
        self.emit(state, &event)
    }

    fn event(&self, figures: &Figures) -> Result<Event> {
        let &Figures { step, lr, secs, tokens, loss, grad_norm, rewards } = figures;
        Ok(Event::Step {
            step,
            steps: self.plan.steps,
            epoch: self.batches.epoch(step * self.plan.accumulation),
            loss,
            lr,
            grad_norm,
            tokens_per_second: tokens as f64 / secs,
            peak_memory: peak_memory()? as u64,
            reward_accuracy: rewards.map(|rewards| rewards.accuracy),
            reward_margin: rewards.map(|rewards| rewards.margin),
        })
    }

    /// Follows finite `grads`, the hook included.
    fn update(&mut self, state: &mut State, grads: Tensors, lr: f64, grad_scale: f32) -> Result<()> {
        let options = StepOptions {
            lr,
            lr_multipliers: &self.plan.lr_multipliers,
            grad_scale: Array::from_f32(grad_scale),
            is_finite: None,
            graphs: &self.stride.updates,
        };
        let seen = (!self.hooks.is_empty()).then(|| grads.clone());
        let replaced = |values: &Tensors| Ok(params::set_parameters(self.model, values)?);
        let State { parameters, memory, .. } = state;
        self.plan.optimizer.step(parameters, grads, memory, &options, replaced)?;
        if let Some(grads) = seen {
            state.method.clear();
            for hook in &mut self.hooks {
                hook.updated(state.step + 1, &grads, grad_scale, &mut state.parameters)?;
                state.method.extend(hook.state());
            }
            params::set_parameters(self.model, &state.parameters)?;
        }
        state.loss_scale.iter_mut().for_each(LossScale::grow);
        Ok(())
    }

    /// Follows `grads` where the device finds that they and the losses are finite.
    fn update_ahead(
        &mut self,
        state: &mut State,
        grads: Tensors,
        lr: f64,
        grad_norm: &Array,
        scored: &[Loss],
    ) -> Result<()> {
        let sum = scored.iter().try_fold(grad_norm.clone(), |sum, share| sum.add(&share.value))?;
        // Nothing changes any more after a step that failed and is not yet told of.
        let finite = match &self.stride.finite {
            Some(before) => before.logical_and(sum.is_finite()?)?,
            None => sum.is_finite()?,
        };
        self.stride.finite = Some(finite.clone());
        let options = StepOptions {
            lr,
            lr_multipliers: &self.plan.lr_multipliers,
            grad_scale: clip_factor(grad_norm, self.plan.max_grad_norm)?,
            is_finite: Some(finite),
            graphs: &self.stride.updates,
        };
        let replaced = |values: &Tensors| Ok(params::set_parameters(self.model, values)?);
        let State { parameters, memory, .. } = state;
        self.plan.optimizer.step(parameters, grads, memory, &options, replaced)
    }

    /// The passes of the next step, of which as much goes through the model at once as memory allows.
    fn pass(&mut self, state: &mut State, scale: Option<f32>) -> Result<Passed> {
        let Plan { accumulation, group, .. } = *self.plan;
        let numbers = state.step * accumulation..(state.step + 1) * accumulation;
        let batches = |run: &mut Self| run.batches.get(numbers.clone(), run.size);
        let mut own = batches(self)?;
        // All passes of all processes share one divisor, so a token counts the same in each of them.
        let own_totals =
            own.iter().flatten().fold(Totals::default(), |sum, batch| sum + self.task.totals(batch));
        let totals = Totals(group.all_sum_f64(own_totals.0)?);
        loop {
            let Stride { passes: graphs, ahead, .. } = &self.stride;
            let mode = passes::Mode { plan: self.plan, scale, graphs, ahead: *ahead };
            let step = (state.step, &own[..], totals);
            match passes::run(self.task, self.model, &state.parameters, &mode, step, self.observer) {
                Err(Error::Interrupted) => return Err(self.interrupt(state)),
                Err(error) if error.is_out_of_memory() && self.pending.is_some() => {
                    // Perhaps there is enough without the step before.
                    self.settle(state)?;
                    clear_cache()?;
                }
                Err(error) if error.is_out_of_memory() => {
                    self.shrink(state, own.iter().flatten(), &error)?;
                    own = batches(self)?;
                }
                other => return other,
            }
        }
    }

    /// Lets less through the model at once than what `error` came of.
    pub(super) fn shrink<'b>(
        &mut self,
        state: &mut State,
        batches: impl IntoIterator<Item = &'b T::Batch> + Clone,
        error: &Error,
    ) -> Result<()>
    where
        T::Batch: 'b,
    {
        let longest = batches.clone().into_iter().map(Batch::row_length).max().unwrap_or(0);
        let Some(size) = PassSize::half_of(batches) else {
            return Err(Error::Hardware(format!(
                "memory ran out with a single row of {longest} tokens ({error}); lower max_seq_length, or set \
                 grad_checkpoint or bits"
            )));
        };
        self.size = size;
        clear_cache()?;
        self.emit(state, &Event::OutOfMemory { step: state.step + 1, rows: size.rows(longest) })
    }
}

fn record(state: &mut State, figures: &Figures) {
    state.history.train_losses.push(figures.loss);
    state.history.train_rewards.extend(figures.rewards);
    state.history.trained_tokens += figures.tokens;
    state.history.training_secs += figures.secs;
}
