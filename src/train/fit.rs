//! The training loop.

use std::ops::ControlFlow;
use std::time::Instant;

use mlx_rs::{Dtype, memory};

use super::batches::{Batches, Data};
use super::checkpoint::{Checkpoints, History, State};
use super::evaluate::{Evaluation, EvaluationPlan, evaluate};
use super::hook::StepHook;
use super::loss_scale::LossScale;
use super::lr_factors::LrFactors;
use super::objective::Objective;
use super::optimizer::{Memory, Optimizer, Pace};
use super::rewards::RewardSum;
use super::schedule::Course;
use super::step;
use super::watch::{Best, Patience};
use crate::data::Batch;
use crate::io::tensors::Tensors;
use crate::models::{Checkpointing, Model};
use crate::progress::{Event, Observer};
use crate::{Error, Result, kernels};

/// How to train. Every number comes from the configuration of the caller.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Optimizer steps.
    pub steps: u64,
    /// What the rows are to teach.
    pub objective: Objective,
    /// Rows or pairs per forward pass.
    pub batch_size: usize,
    /// Forward passes per optimizer step.
    pub accumulation: u64,
    /// Peak learning rate.
    pub lr: f64,
    /// Parameters that learn faster or slower.
    pub lr_factors: LrFactors,
    /// Its course.
    pub course: Course,
    /// Steps until the peak.
    pub warmup_steps: u64,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Gradient norm above which gradients are scaled down; 0 for never.
    pub max_grad_norm: f32,
    /// Blocks between two states that are kept for the gradient; 0 to keep everything.
    pub grad_checkpoint: usize,
    /// Strength of the noise on embeddings.
    pub neftune_alpha: Option<f32>,
    /// Seed of data order, dropout and noise.
    pub seed: u64,
    /// Steps between evaluations; 0 for before and after only.
    pub eval_every: u64,
    /// When to stop early.
    pub patience: Option<Patience>,
    /// Whether the result is what had the lowest validation loss, or else what the last step left.
    pub keep_best: bool,
    /// Steps between checkpoints; 0 for none but on interruption.
    pub save_every: u64,
    /// How the validation set is scored.
    pub evaluation: EvaluationPlan,
}

/// What to train.
pub struct Trained<'a> {
    /// The parameters.
    pub names: &'a [String],
    /// What the method does besides.
    pub hook: Option<&'a mut dyn StepHook>,
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
}

/// Trains some parameters and returns what became of it; the model holds the result.
///
/// `resumed` is where an earlier run stopped. When the observer stops this one, the state is saved
/// first and the error is [`Error::Interrupted`].
///
/// # Errors
/// A loss that is not a number; what MLX or the disk report.
pub fn fit(
    model: &mut dyn Model,
    trained: Trained,
    data: &Data,
    plan: &Plan,
    checkpoints: &Checkpoints,
    resumed: Option<State>,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let Trained { names, mut hook } = trained;
    let parameters = step::parameters(model, names)?;
    let mut state = match resumed {
        Some(state) => {
            check(&state, &parameters, plan)?;
            if let Some(hook) = &mut hook {
                hook.restore(state.method.clone(), &state.parameters)?;
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
    step::set_parameters(model, &state.parameters)?;
    model.set_checkpointing(
        (plan.grad_checkpoint > 0)
            .then(|| Checkpointing { every: plan.grad_checkpoint, trained: names.iter().cloned().collect() }),
    );
    memory::reset_peak_memory()?;
    let batches = Batches::new(&data.train, plan.batch_size, plan.seed, plan.evaluation);
    let run = Run { model: &mut *model, data, plan, checkpoints, hook, observer, batches };
    let outcome = run.train(state);
    model.set_checkpointing(None);
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

struct Run<'a, 'h> {
    model: &'a mut dyn Model,
    data: &'a Data,
    plan: &'a Plan,
    checkpoints: &'a Checkpoints,
    hook: Option<&'h mut dyn StepHook>,
    observer: &'a mut dyn Observer,
    batches: Batches<'a>,
}

impl Run<'_, '_> {
    fn train(mut self, mut state: State) -> Result<Outcome> {
        let steps = self.plan.steps;
        self.emit(
            &state,
            &Event::Started {
                steps,
                first_step: state.step,
                trainable_parameters: state.parameters.values().map(|x| x.size() as u64).sum(),
                total_parameters: self.model.parameters().flatten().values().map(|x| x.size() as u64).sum(),
            },
        )?;
        loop {
            // First thing, so that a run that stopped between a step and its evaluation makes up for it.
            self.evaluate_if_due(&mut state)?;
            let exhausted = |patience: &Patience| patience.is_exhausted(&state.history.validation_losses);
            let stops = state.step < steps && self.plan.patience.as_ref().is_some_and(exhausted);
            if stops {
                self.emit(&state, &Event::Stopped { step: state.step })?;
            }
            if stops || state.step == steps {
                return self.finish(state);
            }
            self.step(&mut state)?;
            if is_due(state.step, self.plan.save_every) && state.step < steps {
                let path = self.checkpoints.save(&state)?;
                self.emit(&state, &Event::Checkpoint { step: state.step, path })?;
            }
        }
    }

    fn finish(self, state: State) -> Result<Outcome> {
        let State { step, history, best, .. } = state;
        if let Some(best) = &best {
            step::set_parameters(self.model, &best.parameters)?;
        }
        Ok(Outcome { steps: step, history, best: best.map(|best| (best.step, best.loss)) })
    }

    /// One optimizer step. Nothing changes before loss and gradient are known to be finite.
    fn step(&mut self, state: &mut State) -> Result<()> {
        let started = Instant::now();
        let batches: Vec<Batch> = (0..self.plan.accumulation)
            .map(|i| self.batches.get(state.step * self.plan.accumulation + i))
            .collect();
        // All micro-batches share one divisor, so a token counts the same in each of them.
        let totals = self.plan.objective.totals(&batches);
        let scale = state.loss_scale.map(|scale| scale.scale);
        let (mut loss, mut rewards, mut sum) = (0.0, RewardSum::default(), None);
        for (i, batch) in batches.iter().enumerate() {
            if self.observer.poll() == ControlFlow::Break(()) {
                return Err(self.interrupt(state));
            }
            let micro = state.step * self.plan.accumulation + i as u64;
            step::set_dropout(self.model, Some((self.plan.seed, micro)))?;
            step::set_noise(self.model, self.plan.neftune_alpha, Some((self.plan.seed, micro)))?;
            let objective = &self.plan.objective;
            let (part, grads) =
                step::gradients(self.model, &state.parameters, objective, batch, totals, scale)?;
            kernels::eval(std::iter::once(&part.loss).chain(&part.rewards).chain(grads.values()))?;
            loss += f64::from(part.loss.item_exact::<f32>());
            part.rewards.iter().for_each(|of_rows| rewards.add(of_rows));
            sum = Some(step::accumulate(sum, grads)?);
        }
        step::set_dropout(self.model, None)?;
        step::set_noise(self.model, None, None)?;
        let mut grads = sum.unwrap_or_default();
        let unscale = scale.map_or(1.0, f32::recip);
        if let Some(hook) = &self.hook {
            hook.gradients(&state.parameters, &mut grads, unscale.recip())?;
        }
        let grad_norm = step::norm(&grads)? * unscale;
        let finite = loss.is_finite() && grad_norm.is_finite();
        // A loss that is not finite is not the fault of the scale.
        let overflow =
            loss.is_finite() && !finite && state.loss_scale.as_mut().is_some_and(LossScale::shrink);
        if !(finite || overflow) {
            return Err(self.diverged(state, loss, grad_norm.into()));
        }
        let lr = self.plan.course.lr_at(state.step, self.plan.steps, self.plan.warmup_steps, self.plan.lr);
        if !overflow {
            let clip = step::clip_factor(grad_norm, self.plan.max_grad_norm);
            let pace = Pace { lr, grad_scale: unscale * clip };
            let seen = self.hook.is_some().then(|| grads.clone());
            let State { parameters, memory, .. } = state;
            let replaced = |values: &Tensors| Ok(step::set_parameters(self.model, values)?);
            self.plan.optimizer.step(parameters, grads, memory, pace, &self.plan.lr_factors, replaced)?;
            if let Some((hook, grads)) = self.hook.as_mut().zip(seen) {
                hook.updated(state.step + 1, &grads, pace.grad_scale, &mut state.parameters)?;
                state.method = hook.state();
                step::set_parameters(self.model, &state.parameters)?;
            }
            state.loss_scale.iter_mut().for_each(LossScale::grow);
        }
        state.step += 1;
        let secs = started.elapsed().as_secs_f64();
        let tokens: u64 = batches.iter().map(|batch| batch.tokens as u64).sum();
        let rewards = rewards.mean();
        state.history.train_losses.push(loss);
        state.history.train_rewards.extend(rewards);
        state.history.trained_tokens += tokens;
        state.history.training_secs += secs;
        if overflow {
            let loss_scale = state.loss_scale.unwrap_or_default().scale.into();
            let (step, steps) = (state.step, self.plan.steps);
            return self.emit(state, &Event::Overflow { step, steps, loss, loss_scale });
        }
        self.emit(
            state,
            &Event::Step {
                step: state.step,
                steps: self.plan.steps,
                epoch: (state.step * self.plan.accumulation) as f64 / self.batches.per_epoch() as f64,
                loss,
                lr,
                grad_norm: grad_norm.into(),
                tokens_per_second: tokens as f64 / secs,
                peak_memory: memory::peak_memory()? as u64,
                reward_accuracy: rewards.map(|rewards| rewards.accuracy),
                reward_margin: rewards.map(|rewards| rewards.margin),
            },
        )
    }

    fn evaluate_if_due(&mut self, state: &mut State) -> Result<()> {
        let Plan { steps, eval_every, .. } = *self.plan;
        let due = state.step == 0 || state.step == steps || is_due(state.step, eval_every);
        let done = state.history.validation_losses.last().is_some_and(|&(step, _)| step == state.step);
        if !due || done || self.data.valid.is_empty() {
            return Ok(());
        }
        let Plan { objective, evaluation, .. } = self.plan;
        let scored = evaluate(self.model, objective, &self.data.valid, evaluation, self.observer);
        let Evaluation { loss, rewards } = match scored {
            Err(Error::Interrupted) => return Err(self.interrupt(state)),
            other => other?,
        };
        if !loss.is_finite() {
            return Err(self.diverged(state, loss, f64::NAN));
        }
        state.history.validation_losses.push((state.step, loss));
        state.history.validation_rewards.extend(rewards.map(|rewards| (state.step, rewards)));
        if self.plan.keep_best {
            Best::offer(&mut state.best, state.step, loss, &state.parameters);
        }
        let event = Event::Evaluated {
            step: state.step,
            loss,
            perplexity: rewards.is_none().then(|| loss.exp()),
            reward_accuracy: rewards.map(|rewards| rewards.accuracy),
            reward_margin: rewards.map(|rewards| rewards.margin),
        };
        self.emit(state, &event)
    }

    fn emit(&mut self, state: &State, event: &Event) -> Result<()> {
        match self.observer.on(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(self.interrupt(state)),
        }
    }

    /// Saves what there is; the error to return.
    fn interrupt(&mut self, state: &State) -> Error {
        if state.step == 0 {
            return Error::Interrupted;
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

    fn diverged(&self, state: &State, loss: f64, grad_norm: f64) -> Error {
        Error::Training(format!(
            "the loss is {loss} and the gradient norm {grad_norm} at step {} of {}; the checkpoint before is \
             intact. Try a lower lr, or check the weights and data for values that are not finite",
            state.step + 1,
            self.plan.steps
        ))
    }
}
