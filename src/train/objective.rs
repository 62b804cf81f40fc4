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

use crate::data::{Batch, Pairs};
use crate::kernels::cross_entropy::{Options, cross_entropy_rows};
use crate::models::Model;
use crate::nn::{self, Segments};

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

    /// The loss of `batch` divided by `totals`, times `scale`. With `gradient` one may be asked for.
    ///
    /// # Errors
    /// What MLX raises.
    pub(super) fn loss(
        &self,
        model: &dyn Model,
        batch: &Batch,
        totals: Totals,
        scale: Option<f32>,
        gradient: bool,
    ) -> nn::Result<Scored> {
        let read = Read::new(model, batch, gradient)?;
        let number = Array::from_f32;
        let factor = scale.unwrap_or(1.0);
        match (*self, &batch.pairs) {
            (Self::Dpo { beta, label_smoothing }, Some(pairs)) => {
                let reference = Array::from_slice(&pairs.reference, &[batch.rows as i32]);
                let rewards = read.surprises(&batch.weights)?.add(reference)?.multiply(number(-beta))?;
                let advantage = advantage(&rewards)?;
                let wrong = minus_log_sigmoid(&advantage.negative()?)?.multiply(number(label_smoothing))?;
                let right = minus_log_sigmoid(&advantage)?.multiply(number(1.0 - label_smoothing))?;
                let loss = right.add(wrong)?.sum(None)?.multiply(number(factor / totals.pairs))?;
                Ok(Scored { loss, rewards: Some(rewards) })
            }
            (Self::Orpo { lambda, .. }, Some(pairs)) => {
                let counts: Vec<f32> =
                    batch.weights.chunks(batch.time.max(1)).map(|row| -row.iter().sum::<f32>()).collect();
                let surprises = read.surprises(&batch.weights)?;
                let mean = surprises.divide(Array::from_slice(&counts, &[batch.rows as i32]))?;
                let preference = minus_log_sigmoid(&advantage(&log_odds(&mean)?)?)?.sum(None)?;
                let likelihood = self.likelihood(&read, batch, pairs, &surprises)?;
                let loss = likelihood
                    .multiply(number(factor / totals.tokens))?
                    .add(preference.multiply(number(factor * lambda / totals.pairs))?)?;
                Ok(Scored { loss, rewards: Some(mean.multiply(number(lambda))?) })
            }
            _ => {
                // In the weights the scale acts on everything behind the head.
                let (factor, divisor) =
                    scale.map_or((1.0, totals.tokens), |scale| (scale / totals.tokens, 1.0));
                let weights: Vec<f32> = batch.weights.iter().map(|weight| factor * weight).collect();
                let loss = read.surprises(&weights)?.sum(None)?.divide(number(divisor))?;
                Ok(Scored { loss, rewards: None })
            }
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

    /// Sum of `-log p` of the tokens that are to be likely; `surprises` are those of the answers.
    fn likelihood(&self, read: &Read, batch: &Batch, pairs: &Pairs, surprises: &Array) -> nn::Result<Array> {
        let [chosen, _] = sides(surprises)?;
        let of_answers = chosen.sum(None)?;
        let weights = self.likelihood_weights(batch, pairs);
        let prompts: Vec<f32> = weights
            .iter()
            .zip(&batch.weights)
            .map(|(&all, &answer)| if answer > 0.0 { 0.0 } else { all })
            .collect();
        if prompts.iter().all(|&weight| weight == 0.0) {
            return Ok(of_answers);
        }
        of_answers.add(read.surprises(&prompts)?.sum(None)?)
    }
}

/// `-log p` of each answer of a batch of pairs: `[rows]`, unevaluated.
///
/// # Errors
/// What MLX raises.
pub(super) fn surprises(model: &dyn Model, batch: &Batch) -> nn::Result<Array> {
    Read::new(model, batch, false)?.surprises(&batch.weights)
}

/// A batch that a model has read up to its head.
struct Read<'a> {
    model: &'a dyn Model,
    hidden: Array,
    targets: Array,
    gradient: bool,
}

impl<'a> Read<'a> {
    fn new(model: &'a dyn Model, batch: &Batch, gradient: bool) -> nn::Result<Self> {
        let shape = [batch.rows as i32, batch.time as i32];
        let ids = Array::from_slice(&batch.ids, &shape);
        let hidden = match &batch.starts {
            Some(starts) => model.hidden_segmented(&ids, &Segments::new(starts, shape[0], shape[1])?)?,
            None => model.hidden(&ids, None)?,
        };
        Ok(Self { model, hidden, targets: Array::from_slice(&batch.targets, &shape), gradient })
    }

    /// `Σ weights · -log p(target)` of each row, `[rows]`.
    fn surprises(&self, weights: &[f32]) -> nn::Result<Array> {
        let weights = Array::from_slice(weights, self.targets.shape());
        let options =
            Options { softcap: self.model.softcap(), gradient: self.gradient, ..Options::default() };
        cross_entropy_rows(&self.hidden, &self.model.head(), &self.targets, &weights, options)
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
