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
//!
//! Log-probabilities come from [`cross_entropy_rows`], never from all logits.

use mlx_rs::Array;
use mlx_rs::ops::{expm1, logaddexp, minimum, split_equal};
use serde::{Deserialize, Serialize};

use super::feed::Feed;
use crate::Result;
use crate::data::{Batch, Pairs};
use crate::kernels::cross_entropy::{Options, cross_entropy_rows};
use crate::models::LanguageModel;
use crate::nn;

/// What training is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// To say what the data say.
    Sft,
    /// To prefer one answer to another, in small steps away from where it began.
    Dpo,
    /// To say what is chosen and to prefer it at once.
    Orpo,
}

impl Kind {
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

/// A [`Kind`] with its numbers.
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
        learns_prompts: bool,
    },
}

/// What the losses of one step are divided by.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Target tokens.
    pub tokens: f32,
    /// Pairs.
    pub pairs: f32,
}

impl std::ops::Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { tokens: self.tokens + other.tokens, pairs: self.pairs + other.pairs }
    }
}

/// The loss of a batch, unevaluated.
pub struct Scored {
    /// Its share in that of the step: `[]`, f32.
    pub loss: Array,
    /// Of pairs: how much the model has come to like each row, `[rows]`, f32: `β·log p/p₀` in DPO, `λ·log p̄` in ORPO.
    pub rewards: Option<Array>,
}

impl Scored {
    /// Loss and rewards.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        std::iter::once(&self.loss).chain(&self.rewards)
    }
}

impl Objective {
    /// What all of `batches` are to be divided by.
    pub fn totals<'a>(&self, batches: impl IntoIterator<Item = &'a Batch>) -> Totals {
        let totals = |batch: &Batch| match &batch.pairs {
            Some(pairs) => Totals {
                tokens: self.likelihood_weights(batch, pairs).iter().sum(),
                pairs: (batch.rows / 2) as f32,
            },
            None => Totals { tokens: batch.weights.iter().sum(), pairs: 0.0 },
        };
        batches.into_iter().map(totals).fold(Totals::default(), std::ops::Add::add)
    }

    /// The loss of `feed`, with its scale. With `gradient` one may be asked for.
    ///
    /// # Errors
    /// What MLX raises.
    pub(super) fn loss(&self, model: &dyn LanguageModel, feed: &Feed, gradient: bool) -> nn::Result<Scored> {
        let read = Read::new(model, feed, gradient)?;
        let number = Array::from_f32;
        let surprises = read.surprises(&feed.weights)?;
        match (*self, &feed.reference, &feed.counts) {
            (Self::Dpo { beta, label_smoothing }, Some(reference), _) => {
                let rewards = surprises.add(reference)?.multiply(number(-beta))?;
                let advantage = advantage(&rewards)?;
                let wrong = minus_log_sigmoid(&advantage.negative()?)?.multiply(number(label_smoothing))?;
                let right = minus_log_sigmoid(&advantage)?.multiply(number(1.0 - label_smoothing))?;
                let loss = right.add(wrong)?.sum(None)?.multiply(&feed.per_pair)?;
                Ok(Scored { loss, rewards: Some(rewards) })
            }
            (Self::Orpo { lambda, .. }, _, Some(counts)) => {
                let mean = surprises.divide(counts)?;
                let preference = minus_log_sigmoid(&advantage(&log_odds(&mean)?)?)?.sum(None)?;
                let [chosen, _] = sides(&surprises)?;
                let mut likelihood = chosen.sum(None)?;
                if let Some(prompts) = &feed.prompts {
                    likelihood = likelihood.add(read.surprises(prompts)?.sum(None)?)?;
                }
                let loss = likelihood
                    .multiply(&feed.per_token)?
                    .add(preference.multiply(number(lambda))?.multiply(&feed.per_pair)?)?;
                Ok(Scored { loss, rewards: Some(mean.multiply(number(lambda))?) })
            }
            _ => Ok(Scored { loss: surprises.sum(None)?.multiply(&feed.per_token)?, rewards: None }),
        }
    }

    /// Which tokens of a batch of pairs are to be likely: those of chosen rows.
    fn likelihood_weights(&self, batch: &Batch, pairs: &Pairs) -> Vec<f32> {
        let learns_prompts = matches!(self, Self::Orpo { learns_prompts: true, .. });
        let weight = |(place, &weight): (usize, &f32)| {
            let (row, column) = (place / batch.time, place % batch.time);
            let learned = weight > 0.0 || learns_prompts && column < pairs.lengths[row];
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

/// `-log p` of each answer of a batch of pairs: `[rows]`, unevaluated.
///
/// # Errors
/// What MLX raises.
pub(super) fn surprises(model: &dyn LanguageModel, batch: &Batch) -> Result<Array> {
    let feed = Feed::new(&Objective::Sft, batch, Totals { tokens: 1.0, pairs: 0.0 }, None)?;
    Ok(Read::new(model, &feed, false)?.surprises(&feed.weights)?)
}

/// A batch that a model has read up to its head.
struct Read<'a> {
    model: &'a dyn LanguageModel,
    hidden: Array,
    targets: &'a Array,
    gradient: bool,
}

impl<'a> Read<'a> {
    fn new(model: &'a dyn LanguageModel, feed: &'a Feed, gradient: bool) -> nn::Result<Self> {
        let hidden = match &feed.segments {
            Some(segments) => model.hidden_segmented(&feed.ids, segments)?,
            None => model.hidden(&feed.ids, None)?,
        };
        Ok(Self { model, hidden, targets: &feed.targets, gradient })
    }

    /// `Σ weights · -log p(target)` of each row, `[rows]`.
    fn surprises(&self, weights: &Array) -> nn::Result<Array> {
        let options =
            Options { softcap: self.model.softcap(), gradient: self.gradient, ..Options::default() };
        cross_entropy_rows(&self.hidden, &self.model.head(), self.targets, weights, options)
    }
}

/// `[rows]` → the chosen and the rejected ones, each `[pairs, 1]`.
fn sides(rows: &Array) -> nn::Result<[Array; 2]> {
    let sides = split_equal(rows.reshape(&[-1, 2])?, 2, 1)?;
    <[Array; 2]>::try_from(sides).map_err(|_| mlx_rs::error::Exception::custom("a pair has two rows"))
}

/// What the chosen row of each pair has more than the other: `[rows]` → `[pairs, 1]`.
fn advantage(rows: &Array) -> nn::Result<Array> {
    let [chosen, rejected] = sides(rows)?;
    chosen.subtract(rejected)
}

/// `-log σ(x) = log(1 + e⁻ˣ)`.
fn minus_log_sigmoid(x: &Array) -> nn::Result<Array> {
    logaddexp(x.negative()?, Array::from_f32(0.0))
}

/// `log(p/(1-p))` from `log p`, which is kept from 0, where the odds are infinite.
fn log_odds(log_p: &Array) -> nn::Result<Array> {
    let log_p = minimum(log_p, Array::from_f32(-f32::EPSILON))?;
    log_p.subtract(expm1(&log_p)?.negative()?.log()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    fn values(x: &Array) -> Vec<f32> {
        eval([x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    #[test]
    fn odds_are_finite_and_exact() {
        let log_p = [0.0_f32, -1e-6, -0.1, -std::f32::consts::LN_2, -5.0, -80.0];
        let odds = values(&log_odds(&Array::from_slice(&log_p, &[6])).unwrap());
        assert!(odds[0].is_finite() && odds[0] >= odds[1]);
        for (&log_p, &odds) in log_p[1..].iter().zip(&odds[1..]) {
            let exact = f64::from(log_p) - (-f64::from(log_p).exp_m1()).ln();
            assert!(
                (f64::from(odds) - exact).abs() < 2e-6 * exact.abs().max(1.0),
                "{log_p}: {odds}, {exact}"
            );
        }
    }

    #[test]
    fn a_far_advantage_stays_finite() {
        let losses = values(&minus_log_sigmoid(&Array::from_slice(&[-1e4_f32, 0.0, 1e4], &[3])).unwrap());
        for (loss, expected) in losses.into_iter().zip([1e4, std::f32::consts::LN_2, 0.0]) {
            assert!((loss - expected).abs() < 1e-6, "{loss}, {expected}");
        }
    }

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
        let totals =
            |learns_prompts| Objective::Orpo { lambda: 0.1, learns_prompts }.totals([&batch, &batch]);
        assert_eq!(totals(false), Totals { tokens: 4.0, pairs: 2.0 });
        assert_eq!(totals(true), Totals { tokens: 6.0, pairs: 2.0 });
    }
}
