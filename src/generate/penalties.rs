//! Changes of logits by what a text holds already, and by the user.
//!
//! 1. Repetition penalty θ (<https://arxiv.org/abs/1909.05858>, as transformers applies it): tokens seen among the last
//!    ones, prompt included, get `logit / θ` where positive, `logit · θ` where negative, once however often they were
//!    seen.
//! 2. Frequency and presence penalties (as `OpenAI`'s API applies them): tokens generated `n > 0` times get
//!    `logit - n · frequency - presence`.
//! 3. Biases are added.

use std::collections::{BTreeMap, HashSet};

use super::GenerateConfig;

/// Applies penalties and biases of `config` to `logits`, `[vocab]`. `tokens` are `prompt` tokens of the prompt, then the
/// generated ones.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "logits are f32")]
pub fn apply(config: &GenerateConfig, logits: &mut [f32], tokens: &[u32], prompt: usize) {
    let penalty = config.repetition_penalty as f32;
    let recent = &tokens[tokens.len().saturating_sub(config.repetition_context)..];
    let mut seen = HashSet::new();
    for &id in recent.iter().filter(|&&id| seen.insert(id)) {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
    let (presence, frequency) = (config.presence_penalty as f32, config.frequency_penalty as f32);
    if presence != 0.0 || frequency != 0.0 {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for &id in tokens.get(prompt..).unwrap_or_default() {
            *counts.entry(id).or_default() += 1;
        }
        for (id, count) in counts {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit -= count as f32 * frequency + presence;
            }
        }
    }
    for (&id, &bias) in &config.logit_bias {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit += bias as f32;
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "small exact numbers")]
mod tests {
    use super::*;

    fn applied(config: &GenerateConfig, mut logits: Vec<f32>, tokens: &[u32], prompt: usize) -> Vec<f32> {
        apply(config, &mut logits, tokens, prompt);
        logits
    }

    #[test]
    fn repetition_sees_the_recent_tokens_only_and_once() {
        let config = GenerateConfig { repetition_penalty: 2.0, repetition_context: 3, ..Default::default() };
        let logits = applied(&config, vec![4.0, 4.0, -4.0, f32::NEG_INFINITY], &[0, 1, 1, 2], 4);
        assert_eq!(logits, [4.0, 2.0, -8.0, f32::NEG_INFINITY]);
        assert_eq!(applied(&config, logits, &[99, 3], 2)[3], f32::NEG_INFINITY);
        let off = GenerateConfig { repetition_context: 0, ..config };
        assert_eq!(applied(&off, vec![1.0; 3], &[0, 1, 2], 0), [1.0; 3]);
    }

    #[test]
    fn frequency_and_presence_count_generated_tokens() {
        let config = GenerateConfig { presence_penalty: 0.5, frequency_penalty: 0.25, ..Default::default() };
        assert_eq!(applied(&config, vec![1.0; 4], &[0, 0, 1, 2, 2, 9], 2), [1.0, 0.25, 0.0, 1.0]);
    }

    #[test]
    fn biases_are_added() {
        let config = GenerateConfig { logit_bias: [(1, -100.0), (9, 3.0)].into(), ..Default::default() };
        assert_eq!(applied(&config, vec![1.0; 2], &[], 0), [1.0, -99.0]);
    }
}
