//! Answers of the student in place of those of the data ([GKD](https://arxiv.org/abs/2306.13649)).

use crate::Result;
use crate::data::{Batch, Sample, Tokenizer, collate};
use crate::generate::{GenerateConfig, Scheduler, SchedulerConfig};
use crate::models::Model;
use crate::rng::{Purpose, digest};

/// Batches of samples of the student.
pub(super) struct Rollouts<'a> {
    pub tokenizer: &'a Tokenizer,
    /// Fraction of the batches that are replaced.
    pub share: f64,
    pub max_new_tokens: usize,
    /// Maximum number of tokens of prompt and answer.
    pub max_seq_length: usize,
    pub seed: u64,
    pub pad_id: u32,
}

impl Rollouts<'_> {
    /// Whether batch `number` is replaced. Such batches are evenly spread.
    pub(super) fn replaces(&self, number: u64) -> bool {
        let before = |number: u64| (number as f64 * self.share).floor();
        before(number + 1) > before(number)
    }

    /// Continues the prompts of the rows of batch `number` with the student, sampling from its distribution. A row that is learned
    /// throughout has its first half as prompt.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn sample(&self, model: &Model, batch: &Batch, number: u64) -> Result<Batch> {
        let prompts: Vec<Vec<u32>> = (0..batch.rows).map(|row| prompt(batch, row)).collect();
        let mut scheduler = Scheduler::new(
            SchedulerConfig { max_batch: batch.rows.max(1), ..SchedulerConfig::default() },
            None,
        )?;
        for prompt in &prompts {
            // The tokens themselves, so that samples do not depend on how the batch is split.
            let path = [self.seed, Purpose::Rollout as u64, number];
            let seed = digest(path.into_iter().chain(prompt.iter().map(|&id| id.into())));
            let room = self.max_seq_length.saturating_sub(prompt.len()).max(1);
            let config = GenerateConfig {
                max_tokens: self.max_new_tokens.min(room),
                temperature: 1.0,
                seed,
                ..GenerateConfig::default()
            };
            scheduler.add(model, self.tokenizer, prompt.clone(), config)?;
        }
        let mut rows = prompts.clone();
        while scheduler.running() + scheduler.waiting() > 0 {
            for event in scheduler.step(model, None, self.tokenizer) {
                if let Some(error) = event.error {
                    return Err(error);
                }
                rows[event.id as usize].extend(event.tokens);
            }
        }
        let sample = |(ids, prompt): (Vec<u32>, &Vec<u32>)| Sample::new(ids, |index| index >= prompt.len());
        let samples: Vec<Sample> = rows.into_iter().zip(&prompts).map(sample).collect();
        Ok(collate(&samples.iter().collect::<Vec<_>>(), self.max_seq_length, self.pad_id))
    }
}

/// The tokens before the first target of a row.
fn prompt(batch: &Batch, row: usize) -> Vec<u32> {
    let columns = row * batch.time..(row + 1) * batch.time;
    let weights = &batch.weights[columns.clone()];
    let first = weights.iter().position(|&weight| weight > 0.0).unwrap_or(0);
    let end = if first > 0 {
        first + 1
    } else {
        let targets = weights.iter().rposition(|&weight| weight > 0.0).map_or(1, |last| last + 1);
        targets.div_ceil(2)
    };
    batch.ids[columns].iter().take(end).map(|id| id.unsigned_abs()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_precede_targets() {
        let answer = Sample::new((10..16).collect(), |index| index >= 4);
        let text = Sample::new((20..26).collect(), |_| true);
        let short = Sample::new(vec![30, 31], |_| true);
        let batch = collate(&[&answer, &text, &short], 64, 0);
        assert_eq!(prompt(&batch, 0), [10, 11, 12, 13]);
        assert_eq!(prompt(&batch, 1), [20, 21, 22]);
        assert_eq!(prompt(&batch, 2), [30]);
    }
}
