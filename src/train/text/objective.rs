//! What a batch is to teach: the loss of its rows.
//!
//! | objective | loss | per |
//! |---|---|---|
//! | SFT | `-log p(token)` | target token |
//! | [DPO](https://arxiv.org/abs/2305.18290) | `-(1-ε)·log σ(β·Δ) - ε·log σ(-β·Δ)`, `Δ = log p/p₀ (chosen) - log p/p₀ (rejected)` | pair |
//! | [ORPO](https://arxiv.org/abs/2403.07691) | `-log p(token)` of what is chosen | target token |
//! | | `-λ·log σ(log odds(chosen) - log odds(rejected))`, `odds = p̄/(1-p̄)` | pair |
//!
//! `p` is the probability of a whole answer after its prompt, `p₀` that before the training, `p̄` the geometric mean of
//! the probabilities of an answer's tokens. Losses of a token are divided by the tokens and those of a pair by the pairs
//! of a whole step, so that it does not matter how a step is cut into batches.

use serde::{Deserialize, Serialize};

use crate::data::{Batch, Pairs};
use crate::train::task::Totals;

/// What training is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// To say what the data say.
    Sft,
    /// To prefer one answer to another, in small steps away from where it began.
    Dpo,
    /// To say what is chosen and to prefer it at once.
    Orpo,
}

impl ObjectiveKind {
    /// As settings spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo => "dpo",
            Self::Orpo => "orpo",
        }
    }
}

/// A [`ObjectiveKind`] with its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objective {
    /// Supervised fine-tuning.
    Sft,
    /// Direct preference optimization.
    Dpo {
        /// How far the model may go from where it began; larger is less far.
        beta: f32,
        /// Share of pairs that are taken to be the wrong way round, ε.
        label_smoothing: f32,
    },
    /// Odds ratio preference optimization.
    Orpo {
        /// Weight of the preference, λ.
        lambda: f32,
        /// Whether the prompts of chosen answers are to be learned too.
        train_on_prompts: bool,
    },
}

impl Objective {
    /// Target tokens and pairs of `batch`, by which its losses are divided.
    #[must_use]
    pub fn totals(&self, batch: &Batch) -> Totals {
        match &batch.pairs {
            Some(pairs) => {
                let tokens: f32 = self.likelihood_weights(batch, pairs).iter().sum();
                Totals([tokens.into(), (batch.rows / 2) as f64])
            }
            None => Totals([batch.weights.iter().sum::<f32>().into(), 0.0]),
        }
    }

    /// Which tokens of a batch of pairs are to be likely: those of chosen rows.
    fn likelihood_weights(&self, batch: &Batch, pairs: &Pairs) -> Vec<f32> {
        let train_on_prompts = matches!(self, Self::Orpo { train_on_prompts: true, .. });
        let weight = |(place, &weight): (usize, &f32)| {
            let (row, column) = (place / batch.time, place % batch.time);
            let learned = weight > 0.0 || train_on_prompts && column < pairs.lengths[row];
            f32::from(row % 2 == 0 && learned)
        };
        batch.weights.iter().enumerate().map(weight).collect()
    }

    /// Weights of the tokens of prompts that are to be likely; `None` where none are.
    pub(super) fn prompt_weights(&self, batch: &Batch, pairs: &Pairs) -> Option<Vec<f32>> {
        let weights = self.likelihood_weights(batch, pairs);
        let prompts: Vec<f32> = weights
            .iter()
            .zip(&batch.weights)
            .map(|(&all, &answer)| if answer > 0.0 { 0.0 } else { all })
            .collect();
        prompts.iter().any(|&weight| weight != 0.0).then_some(prompts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likely_are_the_tokens_of_chosen_rows() {
        let batch = Batch {
            ids: vec![5; 8],
            targets: vec![5; 8],
            weights: vec![0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0],
            starts: None,
            rows: 2,
            time: 4,
            tokens: 7,
            pairs: Some(Pairs { lengths: vec![3, 4], reference: Vec::new() }),
        };
        let totals = |train_on_prompts| Objective::Orpo { lambda: 0.1, train_on_prompts }.totals(&batch);
        assert_eq!(totals(false), Totals([2.0, 1.0]));
        assert_eq!(totals(true), Totals([3.0, 1.0]));
    }
}
