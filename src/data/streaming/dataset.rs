//! A training split that stays on disk.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::rows::IndexedRows;
use crate::data::samples::Labels;
use crate::data::text::Tokenizer;

/// Training rows on disk and how they are tokenized.
#[derive(Debug)]
pub struct StreamingDataset<'t> {
    pub(super) rows: IndexedRows,
    pub(super) tokenizer: &'t Tokenizer,
    pub(super) labels: Labels,
    pub(super) max_seq_length: usize,
    pub(super) packing: bool,
    pub(super) truncated: AtomicUsize,
    pub(super) dropped: AtomicUsize,
    pub(super) unmarked_turns: AtomicUsize,
}

impl<'t> StreamingDataset<'t> {
    /// A dataset of `rows`, truncated to `max_seq_length` tokens and optionally packed.
    #[must_use]
    pub const fn new(
        rows: IndexedRows,
        tokenizer: &'t Tokenizer,
        labels: Labels,
        max_seq_length: usize,
        packing: bool,
    ) -> Self {
        let [truncated, dropped, unmarked_turns] = [const { AtomicUsize::new(0) }; 3];
        Self { rows, tokenizer, labels, max_seq_length, packing, truncated, dropped, unmarked_turns }
    }

    /// The rows.
    #[must_use]
    pub const fn rows(&self) -> &IndexedRows {
        &self.rows
    }

    /// Which tokens are labels.
    #[must_use]
    pub const fn labels(&self) -> Labels {
        self.labels
    }

    /// Number of rows read so far in the first epoch that were truncated.
    #[must_use]
    pub fn truncated_rows(&self) -> usize {
        self.truncated.load(Ordering::Relaxed)
    }

    /// Number of rows read so far in the first epoch that were dropped because they have no targets.
    #[must_use]
    pub fn dropped_rows(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Number of turns of the assistant read so far in the first epoch that the chat template leaves out of what is
    /// learned.
    #[must_use]
    pub fn unmarked_turns(&self) -> usize {
        self.unmarked_turns.load(Ordering::Relaxed)
    }
}
