//! Rows to learn from that stay on disk, and what becomes of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::rows::Rows;
use crate::data::samples::Learned;
use crate::data::text::Tokenizer;

/// Rows on disk, and what becomes of them.
#[derive(Debug)]
pub struct Streamed<'t> {
    pub(super) rows: Rows,
    pub(super) tokenizer: &'t Tokenizer,
    pub(super) learned: Learned,
    pub(super) max_seq_length: usize,
    pub(super) packing: bool,
    pub(super) truncated: AtomicUsize,
    pub(super) dropped: AtomicUsize,
}

impl<'t> Streamed<'t> {
    /// `rows`, from which `learned` is to be learned, cut to `max_seq_length` tokens.
    #[must_use]
    pub const fn new(
        rows: Rows,
        tokenizer: &'t Tokenizer,
        learned: Learned,
        max_seq_length: usize,
        packing: bool,
    ) -> Self {
        let (truncated, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { rows, tokenizer, learned, max_seq_length, packing, truncated, dropped }
    }

    /// The rows.
    #[must_use]
    pub const fn rows(&self) -> &Rows {
        &self.rows
    }

    /// What is learned.
    #[must_use]
    pub const fn learned(&self) -> Learned {
        self.learned
    }

    /// Of the rows read so far in the first pass over the data: how many were cut, and how many left out because nothing
    /// is to be learned from them.
    #[must_use]
    pub fn losses(&self) -> [usize; 2] {
        [&self.truncated, &self.dropped].map(|count| count.load(Ordering::Relaxed))
    }
}
