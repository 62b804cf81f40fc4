//! Rows of text to train on and to score.

use crate::Result;
use crate::data::{Batch, Examples, Megabatch, Megabatches, Sample, StreamingDataset};
use crate::kernels::group::Group;
use crate::models::check_tokens;
use crate::train::task::max_tokens::MaxTokens;

/// What a language model is trained on.
#[derive(Debug)]
pub struct TextData<'t> {
    /// Rows to learn.
    pub train: TrainingRows<'t>,
    /// Rows to score; may be empty.
    pub valid: Examples,
    /// Number of tokens that the model tells apart.
    pub vocab_size: i32,
    /// Tokens per row beyond which a row is truncated.
    pub max_seq_length: usize,
    /// Token that fills short rows.
    pub pad_id: u32,
}

impl TextData<'_> {
    /// This process's share of the examples of these indices, in batches of at most `size`, each as long as its own longest
    /// row. Pairs stay whole.
    pub(super) fn split_batch(
        &self,
        examples: &Examples,
        indices: &[usize],
        group: Group,
        max_tokens: MaxTokens,
    ) -> Vec<Batch> {
        let indices: Vec<usize> = indices.iter().skip(group.rank()).step_by(group.size()).copied().collect();
        let longest = indices.iter().map(|&index| examples.length(index).min(self.max_seq_length)).max();
        let examples_per_batch = (max_tokens.rows(longest.unwrap_or(0)) / examples.rows_per_example()).max(1);
        indices
            .chunks(examples_per_batch)
            .map(|part| examples.batch(part, self.max_seq_length, self.pad_id))
            .collect()
    }
}

/// Rows to learn.
#[derive(Debug)]
pub enum TrainingRows<'t> {
    /// All of them in memory.
    InMemory(Examples),
    /// On disk until they are needed.
    Streamed(StreamingDataset<'t>),
}

impl TrainingRows<'_> {
    /// Number of examples; of those on disk before they are packed.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::InMemory(examples) => examples.len(),
            Self::Streamed(streamed) => streamed.rows().len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of one example.
    pub(super) const fn rows_per_example(&self) -> usize {
        match self {
            Self::InMemory(examples) => examples.rows_per_example(),
            Self::Streamed(streamed) => streamed.labels().samples_per_row(),
        }
    }

    /// Tokens of the longest row, at most `max_seq_length`; of rows on disk nothing else is known.
    pub(super) fn longest(&self, max_seq_length: usize) -> usize {
        match self {
            Self::InMemory(examples) => {
                examples.samples().iter().map(Sample::len).max().unwrap_or(0).min(max_seq_length)
            }
            Self::Streamed(_) => max_seq_length,
        }
    }

    /// A row of at least `tokens` tokens to try, if any has as many.
    pub(super) fn probe_sample(&self, tokens: usize) -> Sample {
        let longest = match self {
            Self::InMemory(examples) => examples.samples().iter().max_by_key(|sample| sample.len()).cloned(),
            Self::Streamed(_) => None,
        };
        longest.unwrap_or_else(|| Sample::new(vec![0; tokens], |_| true))
    }
}

/// Batches in one pass over so many examples.
#[must_use]
pub fn batches_per_epoch(examples: usize, batch_size: usize) -> u64 {
    examples.div_ceil(batch_size.max(1)) as u64
}

/// [Megabatches] of tokens below `vocab`.
pub(crate) fn megabatches<'a>(
    streamed: &'a StreamingDataset,
    batch_size: usize,
    seed: u64,
    first: u64,
    vocab: i32,
) -> impl Iterator<Item = Result<Megabatch>> + 'a {
    Megabatches::new(streamed, batch_size, seed, first).map(move |window| {
        let window = window?;
        check_tokens(window.examples.samples().iter().flat_map(|sample| &sample.ids), vocab)?;
        Ok(window)
    })
}
