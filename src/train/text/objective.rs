//! Training objectives.
//!
//! | objective | loss | per |
//! |---|---|---|
//! | SFT | `-log p(token)` | target token |
//! | [DPO](https://arxiv.org/abs/2305.18290) | `-(1-ε)·log σ(β·Δ) - ε·log σ(-β·Δ)`, `Δ = log p/p₀ (chosen) - log p/p₀ (rejected)` | pair |
//! | [ORPO](https://arxiv.org/abs/2403.07691) | `-log p(token)` of what is chosen | target token |
//! | | `-λ·log σ(log odds(chosen) - log odds(rejected))`, `odds = p̄/(1-p̄)` | pair |
//!
//! `p` is the probability of an answer given its prompt, `p₀` that before training, and `p̄` the geometric mean of
//! the token probabilities of an answer. Token losses are divided by the number of target tokens and pair losses
//! by the number of pairs of a whole step, so that they do not depend on how the step is split into batches.

use serde::{Deserialize, Serialize};

use crate::data::{Batch, Pairs};
use crate::train::task::Totals;

/// Kind of training objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// Supervised fine-tuning.
    Sft,
    /// Direct preference optimization.
    Dpo,
    /// Odds ratio preference optimization.
    Orpo,
}

impl ObjectiveKind {
    /// Returns the name used in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo => "dpo",
            Self::Orpo => "orpo",
        }
    }
}

/// A training objective with its hyperparameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objective {
    /// Supervised fine-tuning.
    Sft,
    /// Direct preference optimization.
    Dpo {
        /// Strength of the implicit KL penalty; larger values keep the model closer to the reference.
        beta: f32,
        /// Probability ε that the preference of a pair is flipped.
        label_smoothing: f32,
    },
    /// Odds ratio preference optimization.
    Orpo {
        /// Weight λ of the odds-ratio loss.
        lambda: f32,
        /// Whether prompts of chosen answers are target tokens too.
        train_on_prompts: bool,
    },
}

impl Objective {
    /// Number of target tokens and pairs of `batch`, the denominators of its losses.
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

    /// Weights of the target tokens of the likelihood loss: those of chosen rows.
    fn likelihood_weights(&self, batch: &Batch, pairs: &Pairs) -> Vec<f32> {
        let train_on_prompts = matches!(self, Self::Orpo { train_on_prompts: true, .. });
        let weight = |(place, &weight): (usize, &f32)| {
            let (row, column) = (place / batch.time, place % batch.time);
            let learned = weight > 0.0 || train_on_prompts && column < pairs.lengths[row];
            f32::from(row % 2 == 0 && learned)
        };
        batch.weights.iter().enumerate().map(weight).collect()
    }

    /// Weights of prompt tokens in the likelihood loss; `None` if all are 0.
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
