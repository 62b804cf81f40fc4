//! Rows to train on and to score.

use std::ops::Range;
use std::thread::Scope;

use super::batch::Batch;
use super::max_tokens::MaxTokens;
use crate::Result;
use crate::kernels::group::Group;
use crate::train::plan::Plan;

/// Rows to train on and rows to score.
pub trait DataModule {
    /// Rows that go through the model at once.
    type Batch: Batch;

    /// Examples to train on.
    fn len(&self) -> usize;

    /// Whether there is nothing to train on.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of one example.
    fn rows_per_example(&self) -> usize {
        1
    }

    /// The endless sequence of training batches, of which the first to be asked for is number `first`. Work in the
    /// background belongs to `scope`.
    fn batches<'scope, 'env>(
        &'env self,
        plan: &Plan,
        first: u64,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Box<dyn DataLoader<Batch = Self::Batch> + 'env>;

    /// Whether there are rows to score.
    fn has_validation(&self) -> bool;

    /// The validation batches that the processes of `group` score, of which this one reads its share, each in parts of at
    /// most `size`.
    fn validation<'a>(
        &'a self,
        plan: &'a Plan,
        group: Group,
        max_tokens: MaxTokens,
    ) -> Box<dyn Iterator<Item = Self::Batch> + 'a>;

    /// [Length](Batch::row_length) of the longest row to train on.
    fn longest_row(&self) -> usize;

    /// One row of `length`, at most [`longest_row`](Self::longest_row), for measuring memory.
    fn probe_batch(&self, length: usize) -> Self::Batch;
}

/// Training batches by number. A batch depends on its number alone, so that a resumed run continues where the first one
/// stopped.
pub trait DataLoader {
    /// Rows that go through the model at once.
    type Batch;

    /// This process's share of the batches of these numbers, each in parts of at most `size`. Numbers never fall, but may
    /// be asked for again.
    ///
    /// # Errors
    /// Rows that cannot be read or are wrong, by file and place.
    fn get(&mut self, numbers: Range<u64>, max_tokens: MaxTokens) -> Result<Vec<Vec<Self::Batch>>>;

    /// Passes over the data before batch `number`, one of those that [`get`](Self::get) returned last or the next,
    /// fractional.
    fn epoch(&self, number: u64) -> f64;
}
