//! Log-probabilities of tokens, for reports: those of the model, before penalties, temperature and filters.

use serde::Serialize;

/// Log-probability of a token with those of the most likely ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogProbability {
    /// The token.
    pub id: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The most likely tokens with theirs, largest first.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogProbability {
    /// Log-probability of `id` and of the `top` most likely tokens, by `logits`, `[vocab]`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "log-probabilities are f32")]
    pub fn of(id: u32, logits: &[f32], top: usize) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
        let normalizer = f64::from(max) + sum.ln();
        let logprob = |logit: f32| (f64::from(logit) - normalizer) as f32;
        let mut best: Vec<(u32, f32)> = Vec::with_capacity(top + 1);
        if top > 0 {
            for (id, &logit) in (0..).zip(logits) {
                if best.len() < top || best.last().is_some_and(|&(_, least)| logit > least) {
                    let place = best.partition_point(|&(_, other)| other >= logit);
                    best.insert(place, (id, logit));
                    best.truncate(top);
                }
            }
        }
        let own = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let top = best.into_iter().map(|(id, logit)| (id, logprob(logit))).collect();
        Self { id, logprob: logprob(own), top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_log_softmax() {
        let logits: Vec<f32> = [0.1_f32, 0.2, 0.4, 0.3].iter().map(|p| p.ln() + 50.0).collect();
        let found = TokenLogProbability::of(1, &logits, 3);
        assert!((found.logprob - 0.2_f32.ln()).abs() < 1e-5);
        let ids: Vec<u32> = found.top.iter().map(|&(id, _)| id).collect();
        assert_eq!(ids, [2, 3, 1]);
        assert!((found.top[0].1 - 0.4_f32.ln()).abs() < 1e-5);
        assert!(TokenLogProbability::of(0, &logits, 0).top.is_empty());
        assert_eq!(TokenLogProbability::of(0, &logits, 9).top.len(), 4);
    }

    #[test]
    fn equal_ones_come_by_id() {
        let ids: Vec<u32> = TokenLogProbability::of(0, &[1.0; 5], 2).top.iter().map(|&(id, _)| id).collect();
        assert_eq!(ids, [0, 1]);
    }
}
