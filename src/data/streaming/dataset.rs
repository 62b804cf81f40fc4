//! Rows to learn from that stay on disk, and what becomes of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::rows::IndexedRows;
use crate::data::samples::Labels;
use crate::data::text::Tokenizer;

/// Rows on disk, and what becomes of them.
#[derive(Debug)]
pub struct StreamingDataset<'t> {
    pub(super) rows: IndexedRows,
    pub(super) tokenizer: &'t Tokenizer,
    pub(super) labels: Labels,
    pub(super) max_seq_length: usize,
    pub(super) packing: bool,
    pub(super) truncated: AtomicUsize,
    pub(super) dropped: AtomicUsize,
}

impl<'t> StreamingDataset<'t> {
    /// `rows`, from which `labels` is to be learned, cut to `max_seq_length` tokens.
    #[must_use]
    pub const fn new(
        rows: IndexedRows,
        tokenizer: &'t Tokenizer,
        labels: Labels,
        max_seq_length: usize,
        packing: bool,
    ) -> Self {
        let (truncated, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { rows, tokenizer, labels, max_seq_length, packing, truncated, dropped }
    }

    /// The rows.
    #[must_use]
    pub const fn rows(&self) -> &IndexedRows {
        &self.rows
    }

    /// What is learned.
    #[must_use]
    pub const fn labels(&self) -> Labels {
        self.labels
    }

    /// Of the rows read so far in the first pass over the data: how many were cut, and how many left out because nothing
    /// is to be learned from them.
    #[must_use]
    pub fn truncated_rows(&self) -> usize {
        self.truncated.load(Ordering::Relaxed)
    }

    /// Of the rows read so far in the first pass over the data: how many were left out because nothing is to be learned
    /// from them.
    #[must_use]
    pub fn dropped_rows(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }
}
