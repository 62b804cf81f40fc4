//! Distillation as a [`Task`].
//!
//! The loss of a step is `α·T²·D̄ + (1-α)·C̄`: the mean divergence over the selected target tokens, and the mean cross-entropy of
//! the data over all target tokens. Of batches that the student wrote it is `T²·D̄`.

use mlx_rs::{Array, stop_gradient};

use super::positions::Positions;
use super::predictions::PredictionCache;
use super::rollout::Rollouts;
use super::selection::{self, Selection};
use super::teacher::Teacher;
use crate::Result;
use crate::data::Batch;
use crate::models::Model;
use crate::nn;
use crate::train::task::inputs::Inputs;
use crate::train::task::{ForwardOptions, Loss, Task, Totals};
use crate::train::text::task::{HiddenStates, TextTask};

/// Where predictions of the teacher come from.
pub(super) enum Source {
    /// The model itself.
    Live(Teacher),
    /// Those on disk.
    Cached(PredictionCache),
}

/// Trains a student towards a teacher.
pub(super) struct DistillationTask<'a> {
    pub text: TextTask,
    pub source: Source,
    pub positions: Positions,
    /// Weight of the divergence.
    pub alpha: f32,
    /// Which target tokens count, and their fraction; `None` for all.
    pub selection: Option<(Selection, f64)>,
    pub rollouts: Option<Rollouts<'a>>,
}

impl Task for DistillationTask<'_> {
    type Model = Model;
    type Batch = Batch;

    fn prepare(&self, model: &Model, batches: Vec<Vec<Batch>>, first: u64) -> Result<Vec<Vec<Batch>>> {
        let Some(rollouts) = &self.rollouts else { return Ok(batches) };
        let replace = |(number, parts): (u64, Vec<Batch>)| {
            if !rollouts.replaces(number) {
                return Ok(parts);
            }
            parts.iter().map(|batch| rollouts.sample(model, batch, number)).collect()
        };
        (first..).zip(batches).map(replace).collect()
    }

    /// Numbers of tokens that are distilled and of those that are targets.
    fn totals(&self, batch: &Batch) -> Totals {
        let Totals([targets, _]) = self.text.totals(batch);
        let distilled = match self.selection {
            Some((_, share)) => selection::counts(batch, share).iter().sum::<usize>() as f64,
            None => targets,
        };
        Totals([distilled, targets])
    }

    /// Those of [`TextTask`], and
    ///
    /// | name | shape | |
    /// |---|---|---|
    /// | `teacher_hidden` | `[rows, time, hidden]` | before the head of the teacher |
    /// | `teacher_tokens`, `teacher_log_probs` | `[rows, time, top_k]` | its most likely tokens, from disk |
    /// | `distillation_weights` | `[rows, time]` | factor of each divergence |
    /// | | `[rows, selected]` | by rank, if tokens are selected |
    /// | `candidates` | `[rows, time]` | above 0 where a token may be selected |
    /// | `label_share` | scalar | factor of the cross-entropy |
    fn inputs(
        &self,
        model: &Model,
        batch: &Batch,
        totals: Totals,
        options: &ForwardOptions,
    ) -> Result<Inputs> {
        let Totals([distilled, targets]) = totals;
        let mut inputs = self.text.inputs(model, batch, Totals([targets, 0.0]), options)?;
        let batch = &*self.text.padded(batch, options);
        let shape = [batch.rows as i32, batch.time as i32];
        let is_rollout = options.rng_path.is_some_and(|(_, [number, ..])| {
            self.rollouts.as_ref().is_some_and(|rollouts| rollouts.replaces(number))
        });
        let share = if is_rollout { 1.0 } else { self.alpha };
        if share < 1.0 {
            inputs.insert("label_share", Array::from_f32(1.0 - share));
        }
        let temperature = self.positions.temperature;
        let factor = options.loss_scale.unwrap_or(1.0) * share * temperature * temperature / distilled as f32;
        let weights: Vec<f32> = batch.weights.iter().map(|weight| weight * factor).collect();
        let weights = Array::from_slice(&weights, &shape);
        if let Some((_, share)) = self.selection {
            inputs.insert("candidates", weights);
            let counts = selection::counts(batch, share);
            inputs.insert("distillation_weights", selection::ranked_weights(&counts, factor));
        } else {
            inputs.insert("distillation_weights", weights);
        }
        match &self.source {
            Source::Live(teacher) => {
                let hidden = teacher.hidden(&batch.ids, &inputs)?;
                inputs.insert("teacher_hidden", hidden);
            }
            Source::Cached(cache) => {
                let [tokens, log_probs] = cache.read(batch, options.is_probe)?;
                inputs.insert("teacher_tokens", tokens);
                inputs.insert("teacher_log_probs", log_probs);
            }
        }
        Ok(inputs)
    }

    fn loss(&self, model: &mut Model, inputs: &Inputs, gradient: bool) -> nn::Result<Loss> {
        self.text.with_noise(model, inputs, |model| {
            let states = HiddenStates::new(model, inputs, gradient)?;
            let mut value = self.divergence(model, &states.hidden, inputs, gradient)?;
            if let Some(share) = inputs.find("label_share") {
                let nll = states.nll(inputs.get("weights")?)?.sum(None)?;
                value = value.add(nll.multiply(inputs.get("per_token")?)?.multiply(share)?)?;
            }
            Ok(Loss { value, rewards: None })
        })
    }
}

impl DistillationTask<'_> {
    /// Weighted sum of the divergences, given the hidden states of the student, `[rows, time, hidden]`.
    fn divergence(
        &self,
        model: &Model,
        hidden: &Array,
        inputs: &Inputs,
        gradient: bool,
    ) -> nn::Result<Array> {
        let flat = |x: &Array| x.reshape(&[-1, x.dim(-1)]);
        let mut hidden = flat(hidden)?;
        let mut teacher = match &self.source {
            Source::Live(_) => vec![flat(inputs.get("teacher_hidden")?)?],
            Source::Cached(_) => {
                vec![flat(inputs.get("teacher_tokens")?)?, flat(inputs.get("teacher_log_probs")?)?]
            }
        };
        let weights = inputs.get("distillation_weights")?;
        if let Some((selection, _)) = self.selection {
            let candidates = inputs.get("candidates")?;
            let fixed = stop_gradient(&hidden)?;
            let scores = match selection {
                Selection::StudentEntropy => self.positions.entropies(model, &fixed)?,
                Selection::Divergence => self.positions.divergences(model, &fixed, &teacher, false)?,
            };
            let chosen =
                selection::highest(&scores.reshape(candidates.shape())?, candidates, weights.dim(1))?;
            hidden = hidden.take_axis(&chosen, 0)?;
            teacher = teacher.iter().map(|x| x.take_axis(&chosen, 0)).collect::<nn::Result<_>>()?;
        }
        let divergences = self.positions.divergences(model, &hidden, &teacher, gradient)?;
        divergences.multiply(weights.reshape(&[-1])?)?.sum(None)
    }
}
