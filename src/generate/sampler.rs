//! Sampling of the next token.
//!
//! In this order, with the conventions of transformers' logits processors:
//! 1. [penalties and biases](super::penalties);
//! 2. temperature 0 takes the largest logit (the lowest id among equals) and ends here,
//!    otherwise logits are divided by the temperature;
//! 3. top-k keeps the k largest logits and whatever equals the smallest of them;
//! 4. top-p (<https://arxiv.org/abs/1904.09751>) keeps the fewest tokens whose mass within what top-k left
//!    reaches p (lower ids first among equals);
//! 5. min-p (<https://arxiv.org/abs/2407.01082>) keeps tokens with at least p times the largest probability;
//! 6. one draw from what is left, renormalised. Each call uses exactly one number of the generator.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{GenerateConfig, penalties};
use crate::{Error, Result};

/// Sampler with its random number generator.
#[derive(Debug, Clone)]
pub struct Sampler {
    config: GenerateConfig,
    rng: ChaCha8Rng,
}

/// A token that may be sampled, with its probability relative to that of the most likely token.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    weight: f64,
}

impl Sampler {
    /// Creates a sampler. `config` must be [valid](GenerateConfig::validate).
    #[must_use]
    pub fn new(config: &GenerateConfig) -> Self {
        Self { config: config.clone(), rng: ChaCha8Rng::seed_from_u64(config.seed) }
    }

    /// Samples the next token. `logits`, `[vocab]`, are modified by penalties and biases; `tokens` are `prompt` tokens
    /// of the prompt, then the generated ones.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] if a logit is NaN or +∞, or none is finite.
    pub fn next(&mut self, logits: &mut [f32], tokens: &[u32], prompt: usize) -> Result<u32> {
        penalties::apply(&self.config, logits, tokens, prompt);
        let (best, max) = argmax(logits)?;
        if self.config.temperature == 0.0 {
            return Ok(best);
        }
        let candidates = self.candidates(logits, max);
        let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        let mut left = self.rng.random::<f64>() * total;
        for candidate in &candidates {
            left -= candidate.weight;
            if left < 0.0 {
                return Ok(candidate.id);
            }
        }
        // Rounding may leave a rest beyond the last candidate.
        Ok(candidates.last().map_or(best, |candidate| candidate.id))
    }

    /// Candidates after temperature, top-k, top-p and min-p.
    fn candidates(&self, logits: &[f32], max: f32) -> Vec<Candidate> {
        let GenerateConfig { temperature, top_p, top_k, min_p, .. } = self.config;
        let weight = |logit: f32| ((f64::from(logit) - f64::from(max)) / temperature).exp();
        let mut kept: Vec<_> =
            (0..).zip(logits).map(|(id, &logit)| Candidate { id, weight: weight(logit) }).collect();
        if (1..kept.len()).contains(&top_k) {
            let mut weights: Vec<_> = kept.iter().map(|candidate| candidate.weight).collect();
            let (_, &mut smallest, _) = weights.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a));
            kept.retain(|candidate| candidate.weight >= smallest);
        }
        if top_p < 1.0 {
            keep_nucleus(&mut kept, top_p);
        }
        kept.retain(|candidate| candidate.weight >= min_p && candidate.weight > 0.0);
        kept
    }
}

/// Sorts by weight and keeps the smallest set whose probabilities sum to `top_p`.
#[expect(clippy::cast_precision_loss, reason = "vocabularies are small against 2⁵²")]
fn keep_nucleus(kept: &mut Vec<Candidate>, top_p: f64) {
    let total: f64 = kept.iter().map(|candidate| candidate.weight).sum();
    // All candidates below this together weigh less than what may be missing, so none of them is
    // needed, and a large vocabulary need not be sorted.
    let negligible = (1.0 - top_p) * total / kept.len() as f64;
    kept.retain(|candidate| candidate.weight >= negligible);
    kept.sort_unstable_by(|a, b| b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id)));
    let mut mass = 0.0;
    let needed = kept.iter().position(|candidate| {
        mass += candidate.weight;
        mass >= top_p * total
    });
    kept.truncate(needed.map_or(kept.len(), |last| last + 1));
}

/// Index and value of the largest logit, the first of equal ones.
fn argmax(logits: &[f32]) -> Result<(u32, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(Error::ModelLoading(format!(
                "the model gave {logit} as logit of token {id}: its weights are broken, or overflow in \
                 their number format (try float32)"
            )));
        }
        if logit > best.1 {
            best = (id, logit);
        }
    }
    if best.1 == f32::NEG_INFINITY {
        return Err(Error::ModelLoading("the model gave no token a finite logit".to_owned()));
    }
    Ok(best)
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "small exact numbers")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOGITS: [f32; 8] = [1.5, -0.5, 3.0, 2.0, 2.0, -2.0, 0.25, 2.75];

    fn config() -> GenerateConfig {
        GenerateConfig { temperature: 1.0, ..Default::default() }
    }

    /// The distribution the sampler draws from, by token id.
    fn distribution(config: &GenerateConfig, logits: &[f32], history: &[u32]) -> Vec<f64> {
        let sampler = Sampler::new(config);
        let mut logits = logits.to_vec();
        penalties::apply(config, &mut logits, history, history.len());
        let (_, max) = argmax(&logits).unwrap();
        let candidates = sampler.candidates(&logits, max);
        let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        let mut probabilities = vec![0.0; logits.len()];
        for candidate in candidates {
            probabilities[candidate.id as usize] = candidate.weight / total;
        }
        probabilities
    }

    fn assert_close(actual: &[f64], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (a, b) in actual.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{actual:?} is not {expected:?}");
        }
    }

    /// Softmax of the logits after the processors of transformers 5.23 (`logits_process.py`).
    #[test]
    fn distributions_are_those_of_transformers() {
        let history = [2, 1, 2, 7];
        for (config, expected) in [
            (
                GenerateConfig { repetition_penalty: 1.3, ..config() },
                [0.113_331, 0.013_201, 0.254_170, 0.186_851, 0.186_851, 0.003_422, 0.032_470, 0.209_704],
            ),
            (
                GenerateConfig { temperature: 0.7, ..config() },
                [0.050_493, 0.002_900, 0.430_386, 0.103_143, 0.103_143, 0.000_340, 0.008_466, 0.301_129],
            ),
            (
                GenerateConfig { top_k: 3, ..config() },
                [0.0, 0.0, 0.397_684, 0.146_300, 0.146_300, 0.0, 0.0, 0.309_717],
            ),
            (GenerateConfig { top_p: 0.6, ..config() }, [0.0, 0.0, 0.562_177, 0.0, 0.0, 0.0, 0.0, 0.437_824]),
            (
                GenerateConfig { top_p: 0.8, temperature: 2.0, ..config() },
                [0.132_393, 0.0, 0.280_275, 0.169_995, 0.169_995, 0.0, 0.0, 0.247_342],
            ),
            (
                GenerateConfig { min_p: 0.3, ..config() },
                [0.0, 0.0, 0.397_684, 0.146_300, 0.146_300, 0.0, 0.0, 0.309_717],
            ),
            (
                GenerateConfig {
                    repetition_penalty: 1.3,
                    temperature: 0.8,
                    top_k: 5,
                    top_p: 0.9,
                    min_p: 0.1,
                    ..config()
                },
                [0.103_744, 0.0, 0.284_729, 0.193_819, 0.193_819, 0.0, 0.0, 0.223_890],
            ),
        ] {
            assert_close(&distribution(&config, &LOGITS, &history), &expected);
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut sampler = Sampler::new(&GenerateConfig::default());
        assert_eq!(sampler.next(&mut [0.0, 2.0, 2.0, -1.0], &[], 0).unwrap(), 1);
        assert_eq!(sampler.next(&mut [f32::NEG_INFINITY, -5.0], &[], 0).unwrap(), 1);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let config = GenerateConfig { temperature: 0.9, top_k: 4, seed: 11, ..config() };
        let draw = |seed: u64| {
            let mut sampler = Sampler::new(&GenerateConfig { seed, ..config.clone() });
            (0..20_000).map(|_| sampler.next(&mut LOGITS.clone(), &[], 0).unwrap()).collect::<Vec<_>>()
        };
        let drawn = draw(11);
        assert_eq!(drawn, draw(11));
        assert_ne!(drawn, draw(12));
        for (id, expected) in (0..).zip(distribution(&config, &LOGITS, &[])) {
            let share = drawn.iter().filter(|&&token| token == id).count() as f64 / drawn.len() as f64;
            assert!((share - expected).abs() < 0.015, "token {id}: {share}, expected {expected}");
        }
    }

    #[test]
    fn limits_of_the_filters() {
        let all = distribution(&config(), &LOGITS, &[]);
        for unlimited in [8, 9, usize::MAX] {
            assert_close(&distribution(&GenerateConfig { top_k: unlimited, ..config() }, &LOGITS, &[]), &all);
        }
        let best = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        for strictest in [
            GenerateConfig { top_k: 1, ..config() },
            GenerateConfig { top_p: 1e-9, ..config() },
            GenerateConfig { min_p: 1.0, ..config() },
            GenerateConfig { temperature: 1e-12, ..config() },
        ] {
            assert_close(&distribution(&strictest, &LOGITS, &[]), &best);
        }
    }

    #[test]
    fn impossible_tokens_are_never_drawn() {
        let mut sampler = Sampler::new(&GenerateConfig { temperature: 50.0, ..config() });
        for _ in 0..200 {
            let mut logits = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
            assert_eq!(sampler.next(&mut logits, &[], 0).unwrap(), 1);
        }
    }

    #[test]
    fn broken_logits_are_an_error() {
        for (mut logits, reason) in [
            (vec![0.0, f32::NAN], "the model gave NaN as logit of token 1: its weights are broken"),
            (vec![f32::INFINITY], "the model gave inf as logit of token 0: its weights are broken"),
            (vec![f32::NEG_INFINITY; 3], "the model gave no token a finite logit"),
            (vec![], "the model gave no token a finite logit"),
        ] {
            for temperature in [0.0, 1.0] {
                let mut sampler = Sampler::new(&GenerateConfig { temperature, ..config() });
                let error = sampler.next(&mut logits, &[], 0).unwrap_err();
                assert!(matches!(error, Error::ModelLoading(_)) && error.to_string().starts_with(reason));
            }
        }
    }

    /// Every filter in turn on a full sort, as the papers describe them.
    fn reference(config: &GenerateConfig, logits: &[f32]) -> Vec<f64> {
        let scaled: Vec<f64> = logits.iter().map(|&x| f64::from(x) / config.temperature).collect();
        let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut p: Vec<f64> = scaled.iter().map(|x| (x - max).exp()).collect();
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
        if config.top_k > 0 && config.top_k < p.len() {
            let smallest = p[order[config.top_k - 1]];
            p.iter_mut().filter(|x| **x < smallest).for_each(|x| *x = 0.0);
        }
        let total: f64 = p.iter().sum();
        let mut mass = 0.0;
        for &id in &order {
            if mass >= config.top_p * total {
                p[id] = 0.0;
            }
            mass += p[id];
        }
        p.iter_mut().filter(|x| **x < config.min_p).for_each(|x| *x = 0.0);
        let total: f64 = p.iter().sum();
        p.iter().map(|x| x / total).collect()
    }

    proptest! {
        #[test]
        fn filters_agree_with_the_reference(
            logits in proptest::collection::vec(-20.0_f32..20.0, 1..200),
            temperature in 0.05..4.0,
            top_k in 0_usize..250,
            top_p in 0.01..0.999,
            min_p in 0.0..1.0,
        ) {
            let config = GenerateConfig { temperature, top_p, top_k, min_p, ..config() };
            assert_close(&distribution(&config, &logits, &[]), &reference(&config, &logits));
        }
    }
}
