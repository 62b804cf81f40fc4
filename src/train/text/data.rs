//! Training and validation rows of a language model.

use crate::Result;
use crate::data::{Batch, Examples, Megabatch, Megabatches, Sample, StreamingDataset};
use crate::kernels::group::Group;
use crate::models::check_tokens;
use crate::train::task::max_tokens::MaxTokens;

/// Training and validation data of a language model.
#[derive(Debug)]
pub struct TextData<'t> {
    /// Training rows.
    pub train: TrainingRows<'t>,
    /// Validation rows; may be empty.
    pub valid: Examples,
    /// Vocabulary size of the model.
    pub vocab_size: i32,
    /// Maximum length in tokens; longer rows are truncated.
    pub max_seq_length: usize,
    /// Padding token.
    pub pad_id: u32,
}

impl TextData<'_> {
    /// Collates this process's share of the examples `indices` into batches of at most `max_tokens`, each padded
    /// to its own longest row. Pairs are not split.
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

/// Training rows.
#[derive(Debug)]
pub enum TrainingRows<'t> {
    /// Rows in memory.
    InMemory(Examples),
    /// Rows on disk, read when needed.
    Streamed(StreamingDataset<'t>),
}

impl TrainingRows<'_> {
    /// Number of examples, before packing if they are on disk.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::InMemory(examples) => examples.len(),
            Self::Streamed(streamed) => streamed.rows().len(),
        }
    }

    /// Whether there are no examples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of rows per example.
    pub(super) const fn rows_per_example(&self) -> usize {
        match self {
            Self::InMemory(examples) => examples.rows_per_example(),
            Self::Streamed(streamed) => streamed.labels().samples_per_row(),
        }
    }

    /// Length of the longest row in tokens, at most `max_seq_length`; that length for rows on disk.
    pub(super) fn longest(&self, max_seq_length: usize) -> usize {
        match self {
            Self::InMemory(examples) => {
                examples.samples().iter().map(Sample::len).max().unwrap_or(0).min(max_seq_length)
            }
            Self::Streamed(_) => max_seq_length,
        }
    }

    /// Returns a row of at least `tokens` tokens for measuring memory, or the longest one.
    pub(super) fn probe_sample(&self, tokens: usize) -> Sample {
        let longest = match self {
            Self::InMemory(examples) => examples.samples().iter().max_by_key(|sample| sample.len()).cloned(),
            Self::Streamed(_) => None,
        };
        longest.unwrap_or_else(|| Sample::new(vec![0; tokens], |_| true))
    }
}

/// Number of batches per epoch.
#[must_use]
pub fn batches_per_epoch(examples: usize, batch_size: usize) -> u64 {
    examples.div_ceil(batch_size.max(1)) as u64
}

/// Iterates over [Megabatches], checking that all tokens are below `vocab`.
pub(crate) fn megabatches<'a>(
    streamed: &'a StreamingDataset,
    batch_size: usize,
    seed: u64,
    first: u64,
    vocab: i32,
) -> impl Iterator<Item = Result<Megabatch>> + 'a {
    Megabatches::new(streamed, batch_size, seed, first).map(move |megabatch| {
        let megabatch = megabatch?;
        check_tokens(megabatch.examples.samples().iter().flat_map(|sample| &sample.ids), vocab)?;
        Ok(megabatch)
    })
}
