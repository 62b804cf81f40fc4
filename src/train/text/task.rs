//! Language modelling as a [`Task`].

use std::borrow::Cow;

use mlx_rs::Array;

use super::objective::Objective;
use super::preference::{log_odds, margins, negative_log_sigmoid, split_pairs};
use crate::Result;
use crate::data::Batch;
use crate::kernels::cross_entropy::Options;
use crate::models::Model;
use crate::nn::embedding::Noise;
use crate::nn::{self, Segments};
use crate::rng::{self, Purpose};
use crate::train::task::inputs::Inputs;
use crate::train::task::{ForwardOptions, Loss, Task, Totals, batch};

/// Rows are padded to a multiple of this length where graphs are reused, so that batches share graphs.
const PAD_MULTIPLE: usize = 64;

/// Trains a language model with `objective`.
#[derive(Debug, Clone, Copy)]
pub struct TextTask {
    /// The objective.
    pub objective: Objective,
    /// Magnitude of embedding noise ([NEFTune](https://arxiv.org/abs/2310.05914)).
    pub neftune_alpha: Option<f32>,
    /// Padding token.
    pub pad_id: u32,
}

impl batch::Batch for Batch {
    fn rows(&self) -> usize {
        self.rows
    }

    fn row_length(&self) -> usize {
        self.time
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn is_divisible(&self) -> bool {
        Batch::is_divisible(self)
    }
}

impl Task for TextTask {
    type Model = Model;
    type Batch = Batch;

    fn totals(&self, batch: &Batch) -> Totals {
        self.objective.totals(batch)
    }

    /// | name | shape | |
    /// |---|---|---|
    /// | `ids`, `targets` | `[rows, time]` | tokens, and the next ones |
    /// | `weights` | `[rows, time]` | weight of each target |
    /// | `segment_starts`, `segment_positions` | `[rows, time]` | of packed rows |
    /// | `per_token`, `per_pair` | scalars | factors of token and pair losses |
    /// | `reference` | `[rows]` | DPO: log-probability of each answer before training |
    /// | `minus_targets` | `[rows]` | ORPO: minus the number of targets |
    /// | `prompt_weights` | `[rows, time]` | ORPO: of prompts that are targets too |
    /// | `noise_key` | key | NEFTune |
    fn inputs(
        &self,
        model: &Model,
        batch: &Batch,
        totals: Totals,
        options: &ForwardOptions,
    ) -> Result<Inputs> {
        let batch = &*self.padded(batch, options);
        let shape = [batch.rows as i32, batch.time as i32];
        let rows = |values: &[f32]| Array::from_slice(values, &shape[..1]);
        let table = |values: &[f32]| Array::from_slice(values, &shape);
        let Totals([tokens, pairs]) = totals;
        let factor = options.loss_scale.unwrap_or(1.0);
        let (mut weights, mut per_token) = (table(&batch.weights), factor / tokens as f32);
        let mut inputs = Inputs::new(options.loss_scale);
        match (self.objective, &batch.pairs) {
            (Objective::Dpo { .. }, Some(pairs)) => inputs.insert("reference", rows(&pairs.reference)),
            (Objective::Orpo { .. }, Some(pairs)) => {
                let targets = |row: &[f32]| -row.iter().sum::<f32>();
                let answers: Vec<f32> = batch.weights.chunks(batch.time.max(1)).map(targets).collect();
                inputs.insert("minus_targets", rows(&answers));
                if let Some(prompts) = self.objective.prompt_weights(batch, pairs) {
                    inputs.insert("prompt_weights", table(&prompts));
                }
            }
            _ if options.loss_scale.is_some() => {
                // There the scale acts on everything behind the head.
                let scaled: Vec<f32> = batch.weights.iter().map(|weight| per_token * weight).collect();
                (weights, per_token) = (table(&scaled), 1.0);
            }
            _ => {}
        }
        if let Some(starts) = &batch.starts {
            let Segments { starts, positions, longest } = Segments::new(starts, shape[0], shape[1])?;
            inputs.insert("segment_starts", starts);
            inputs.insert("segment_positions", positions);
            inputs.insert_constant("longest_segment", longest);
            inputs.variant = model.rotation_variant(longest);
        }
        inputs.insert("ids", Array::from_slice(&batch.ids, &shape));
        inputs.insert("targets", Array::from_slice(&batch.targets, &shape));
        inputs.insert("weights", weights);
        inputs.insert("per_token", Array::from_f32(per_token));
        inputs.insert("per_pair", Array::from_f32(factor / pairs as f32));
        if let (Some(_), Some((seed, path))) = (self.neftune_alpha, options.rng_path) {
            inputs.insert("noise_key", rng::key(seed, Purpose::Noise, &path)?);
        }
        Ok(inputs)
    }

    fn loss(&self, model: &mut Model, inputs: &Inputs, gradient: bool) -> nn::Result<Loss> {
        self.with_noise(model, inputs, |model| self.objective.loss(model, inputs, gradient))
    }

    fn perplexity(&self, loss: f64) -> Option<f64> {
        matches!(self.objective, Objective::Sft).then(|| loss.exp())
    }
}

impl TextTask {
    /// The batch with the padding that its inputs have.
    #[must_use]
    pub fn padded<'a>(&self, batch: &'a Batch, options: &ForwardOptions) -> Cow<'a, Batch> {
        if options.pad_for_graphs {
            Cow::Owned(batch.pad_to_multiple_of(PAD_MULTIPLE, self.pad_id))
        } else {
            Cow::Borrowed(batch)
        }
    }

    /// Calls `work` while embeddings have the noise of `inputs`.
    ///
    /// # Errors
    /// Errors of `work`.
    pub fn with_noise<T>(
        &self,
        model: &mut Model,
        inputs: &Inputs,
        work: impl FnOnce(&Model) -> nn::Result<T>,
    ) -> nn::Result<T> {
        let noise = self.neftune_alpha.zip(inputs.find("noise_key"));
        model.embedding_mut().noise = noise.map(|(alpha, key)| Noise { alpha, key: key.clone() });
        let outcome = work(model);
        model.embedding_mut().noise = None;
        outcome
    }
}

impl Objective {
    fn loss(&self, model: &Model, inputs: &Inputs, gradient: bool) -> nn::Result<Loss> {
        let hidden_states = HiddenStates::new(model, inputs, gradient)?;
        let number = Array::from_f32;
        let nll = hidden_states.nll(inputs.get("weights")?)?;
        let (per_token, per_pair) = (inputs.get("per_token")?, inputs.get("per_pair")?);
        match (*self, inputs.find("reference"), inputs.find("minus_targets")) {
            (Self::Dpo { beta, label_smoothing }, Some(reference), _) => {
                let rewards = nll.add(reference)?.multiply(number(-beta))?;
                let margins = margins(&rewards)?;
                let wrong = negative_log_sigmoid(&margins.negative()?)?.multiply(number(label_smoothing))?;
                let right = negative_log_sigmoid(&margins)?.multiply(number(1.0 - label_smoothing))?;
                let value = right.add(wrong)?.sum(None)?.multiply(per_pair)?;
                Ok(Loss { value, rewards: Some(rewards) })
            }
            (Self::Orpo { lambda, .. }, _, Some(minus_targets)) => {
                let mean = nll.divide(minus_targets)?;
                let preference = negative_log_sigmoid(&margins(&log_odds(&mean)?)?)?.sum(None)?;
                let [chosen, _] = split_pairs(&nll)?;
                let mut likelihood = chosen.sum(None)?;
                if let Some(prompts) = inputs.find("prompt_weights") {
                    likelihood = likelihood.add(hidden_states.nll(prompts)?.sum(None)?)?;
                }
                let value = likelihood
                    .multiply(per_token)?
                    .add(preference.multiply(number(lambda))?.multiply(per_pair)?)?;
                Ok(Loss { value, rewards: Some(mean.multiply(number(lambda))?) })
            }
            _ => Ok(Loss { value: nll.sum(None)?.multiply(per_token)?, rewards: None }),
        }
    }
}

/// Computes the negative log-likelihood of each answer of a batch of pairs, `[rows]`, not evaluated.
///
/// # Errors
/// Errors from MLX.
pub(super) fn negative_log_likelihoods(model: &Model, batch: &Batch) -> Result<Array> {
    let task = TextTask { objective: Objective::Sft, neftune_alpha: None, pad_id: 0 };
    let inputs = task.inputs(model, batch, Totals([1.0, 0.0]), &ForwardOptions::default())?;
    Ok(HiddenStates::new(model, &inputs, false)?.nll(inputs.get("weights")?)?)
}

/// Hidden states of a batch before the head, whose [`cross_entropy_rows`](crate::nn::Head::cross_entropy_rows) need not
/// hold all logits.
pub struct HiddenStates<'a> {
    model: &'a Model,
    /// `[rows, time, hidden]`
    pub hidden: Array,
    targets: &'a Array,
    gradient: bool,
}

impl<'a> HiddenStates<'a> {
    /// Computes them for `ids` and segments of `inputs`; `gradient` tells whether a gradient will be taken.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new(model: &'a Model, inputs: &'a Inputs, gradient: bool) -> nn::Result<Self> {
        let ids = inputs.get("ids")?;
        let hidden = match inputs.constant("longest_segment") {
            Some(longest) => {
                let starts = inputs.get("segment_starts")?.clone();
                let positions = inputs.get("segment_positions")?.clone();
                model.hidden_segmented(ids, &Segments { starts, positions, longest })?
            }
            None => model.hidden(ids, None)?,
        };
        Ok(Self { model, hidden, targets: inputs.get("targets")?, gradient })
    }

    /// Computes the negative log-likelihood of each row, `Σ weights · -log p(target)`, `[rows]`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn nll(&self, weights: &Array) -> nn::Result<Array> {
        let options =
            Options { softcap: self.model.softcap(), gradient: self.gradient, ..Options::default() };
        self.model.head().cross_entropy_rows(&self.hidden, self.targets, weights, options)
    }
}
