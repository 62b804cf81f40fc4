//! A batch as arrays.

use mlx_rs::Array;
use mlx_rs::ops::indexing::TryIndexOp;

use super::objective::{Objective, Totals};
use crate::Result;
use crate::data::Batch;
use crate::models::LanguageModel;
use crate::nn::Segments;
use crate::nn::embedding::Noise;
use crate::rng::{self, Purpose};

/// Everything that changes from batch to batch in the graph of its loss, in which another batch of the same shape can
/// take its place.
#[derive(Debug, Clone)]
pub struct Feed {
    /// `[rows, time]`
    pub(super) ids: Array,
    /// `[rows, time]`
    pub(super) targets: Array,
    /// What each target counts, `[rows, time]`.
    pub(super) weights: Array,
    /// Where texts begin, in rows of several.
    pub(super) segments: Option<Segments>,
    /// What losses of a token are multiplied with, `[]`.
    pub(super) per_token: Array,
    /// What losses of a pair are multiplied with, `[]`.
    pub(super) per_pair: Array,
    /// Log-probability of each row before the training, `[rows]`.
    pub(super) reference: Option<Array>,
    /// Minus the number of targets of each row, `[rows]`.
    pub(super) counts: Option<Array>,
    /// Weights of prompts that are learned too, `[rows, time]`.
    pub(super) prompts: Option<Array>,
    /// What the gradient, but not the loss, is multiplied with.
    pub(super) scale: Option<f32>,
    /// A key for each linear layer, `[layers, 2]`, where any drops something.
    dropout: Option<Array>,
    noise: Option<Noise>,
}

impl Feed {
    /// `batch` for `objective`, its loss divided by `totals`.
    ///
    /// With a `scale` the gradient, but not the loss, is that of `scale` times the loss.
    ///
    /// # Errors
    /// Texts that begin where they cannot.
    pub fn new(objective: &Objective, batch: &Batch, totals: Totals, scale: Option<f32>) -> Result<Self> {
        let shape = [batch.rows as i32, batch.time as i32];
        let (rows, table) = (
            |values: &[f32]| Array::from_slice(values, &shape[..1]),
            |values: &[f32]| Array::from_slice(values, &shape),
        );
        let factor = scale.unwrap_or(1.0);
        let (mut weights, mut per_token) = (table(&batch.weights), factor / totals.tokens);
        let (mut reference, mut counts, mut prompts) = (None, None, None);
        match (objective, &batch.pairs) {
            (Objective::Dpo { .. }, Some(pairs)) => reference = Some(rows(&pairs.reference)),
            (Objective::Orpo { .. }, Some(pairs)) => {
                let targets = |row: &[f32]| -row.iter().sum::<f32>();
                let answers: Vec<f32> = batch.weights.chunks(batch.time.max(1)).map(targets).collect();
                counts = Some(rows(&answers));
                prompts = objective.prompt_weights(batch, pairs).as_deref().map(table);
            }
            _ if scale.is_some() => {
                // There the scale acts on everything behind the head.
                let scaled: Vec<f32> = batch.weights.iter().map(|weight| per_token * weight).collect();
                (weights, per_token) = (table(&scaled), 1.0);
            }
            _ => {}
        }
        let segments = batch.starts.as_ref().map(|starts| Segments::new(starts, shape[0], shape[1]));
        Ok(Self {
            ids: Array::from_slice(&batch.ids, &shape),
            targets: Array::from_slice(&batch.targets, &shape),
            weights,
            segments: segments.transpose()?,
            per_token: Array::from_f32(per_token),
            per_pair: Array::from_f32(factor / totals.pairs),
            reference,
            counts,
            prompts,
            scale,
            dropout: None,
            noise: None,
        })
    }

    /// With the random numbers of one pass, named by seed, micro-batch, part of it and process: dropout of the layers of
    /// `model` that have any, and noise on embeddings of strength `alpha`.
    ///
    /// # Errors
    /// What MLX raises.
    pub fn with_draws(
        mut self,
        model: &mut dyn LanguageModel,
        alpha: Option<f32>,
        seed: u64,
        pass: [u64; 3],
    ) -> Result<Self> {
        let (mut layers, mut drops) = (0, false);
        model.visit_linears(&mut |_, linear| {
            layers += 1;
            drops |= linear.low_rank.dropout > 0.0;
            Ok(())
        })?;
        if drops {
            let [micro, part, rank] = pass;
            let paths = (1..=layers).map(|layer| [micro, part, rank, layer]);
            self.dropout = Some(rng::keys(seed, Purpose::Dropout, paths));
        }
        if let Some(alpha) = alpha {
            self.noise = Some(Noise { alpha, key: rng::key(seed, Purpose::Noise, &pass)? });
        }
        Ok(self)
    }

    /// Lets `model` draw what belongs to this pass; without a feed it draws nothing.
    ///
    /// # Errors
    /// What MLX raises.
    pub(super) fn set_draws(feed: Option<&Self>, model: &mut dyn LanguageModel) -> Result<()> {
        let keys = feed.and_then(|feed| feed.dropout.as_ref());
        let mut layer = 0;
        model.visit_linears(&mut |_, linear| {
            let keys = keys.filter(|_| linear.low_rank.dropout > 0.0);
            linear.low_rank.dropout_key = keys.map(|keys| keys.try_index(layer)).transpose()?;
            layer += 1;
            Ok(())
        })?;
        model.embedding_mut().noise = feed.and_then(|feed| feed.noise.clone());
        Ok(())
    }

    /// What `model` does differently for other feeds of the same shapes.
    pub(super) fn variant(&self, model: &dyn LanguageModel) -> [u64; 2] {
        let Self { segments, reference, counts, prompts, dropout, noise, .. } = self;
        let parts = [
            segments.is_some(),
            reference.is_some(),
            counts.is_some(),
            prompts.is_some(),
            dropout.is_some(),
            noise.is_some(),
        ];
        let parts = parts.into_iter().fold(0, |bits, part| 2 * bits + u64::from(part));
        let longest = segments.as_ref().map_or(0, |segments| segments.longest);
        [parts, u64::from(model.long_rope_threshold().is_some_and(|short| longest > short))]
    }

    /// All arrays, in order.
    pub(super) fn arrays(&self) -> Vec<Array> {
        self.clone().slots().into_iter().map(|slot| slot.clone()).collect()
    }

    /// The same with other `arrays`.
    pub(super) fn with_arrays(&self, arrays: &[Array]) -> Self {
        let mut feed = self.clone();
        for (slot, array) in feed.slots().into_iter().zip(arrays) {
            *slot = array.clone();
        }
        feed
    }

    fn slots(&mut self) -> Vec<&mut Array> {
        // Every field by name, so that none is left out by accident and stays in a graph as it is.
        let Self {
            ids,
            targets,
            weights,
            segments,
            per_token,
            per_pair,
            reference,
            counts,
            prompts,
            scale: _,
            dropout,
            noise,
        } = self;
        let mut slots = vec![ids, targets, weights, per_token, per_pair];
        if let Some(Segments { starts, positions, longest: _ }) = segments {
            slots.extend([starts, positions]);
        }
        slots.extend([reference, counts, prompts, dropout].into_iter().flatten());
        slots.extend(noise.as_mut().map(|Noise { alpha: _, key }| key));
        slots
    }
}
