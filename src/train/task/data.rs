//! Training and validation data.

use std::ops::Range;
use std::thread::Scope;

use super::batch::Batch;
use super::max_tokens::MaxTokens;
use crate::Result;
use crate::kernels::group::Group;
use crate::train::plan::Plan;

/// Training and validation data of a task.
pub trait DataModule {
    /// The batch type.
    type Batch: Batch;

    /// Number of training examples.
    fn len(&self) -> usize;

    /// Whether there are no training examples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of rows per example, 2 for preference pairs.
    fn rows_per_example(&self) -> usize {
        1
    }

    /// Returns the endless sequence of training batches, starting with batch number `first`. Background threads
    /// are spawned in `scope`.
    fn batches<'scope, 'env>(
        &'env self,
        plan: &Plan,
        first: u64,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Box<dyn DataLoader<Batch = Self::Batch> + 'env>;

    /// Whether there is validation data.
    fn has_validation(&self) -> bool;

    /// Iterates over this process's share of the validation batches of `group`, each split into parts of at most
    /// `max_tokens`.
    fn validation<'a>(
        &'a self,
        plan: &'a Plan,
        group: Group,
        max_tokens: MaxTokens,
    ) -> Box<dyn Iterator<Item = Self::Batch> + 'a>;

    /// [Length](Batch::row_length) of the longest training row.
    fn longest_row(&self) -> usize;

    /// Returns a batch of one row of `length` tokens, at most [`longest_row`](Self::longest_row), for measuring
    /// memory.
    fn probe_batch(&self, length: usize) -> Self::Batch;
}

/// Training batches by number. A batch depends on its number only, so that a resumed run continues with the same
/// batches.
pub trait DataLoader {
    /// The batch type.
    type Batch;

    /// Returns this process's share of the batches `numbers`, each split into parts of at most `max_tokens`.
    /// Numbers never decrease, but may be requested again.
    ///
    /// # Errors
    /// Rows that cannot be read or are invalid, with file and line.
    fn get(&mut self, numbers: Range<u64>, max_tokens: MaxTokens) -> Result<Vec<Vec<Self::Batch>>>;

    /// Returns the fractional number of epochs before batch `number`, which must be among those that
    /// [`get`](Self::get) returned last, or the next one.
    fn epoch(&self, number: u64) -> f64;
}
