//! What the model reads in which step.

use super::evaluate::EvaluationPlan;
use super::memory::PassSize;
use crate::data::{Batch, Examples, epoch_batches};

/// What to train on.
#[derive(Debug)]
pub struct Data {
    /// Rows to learn.
    pub train: Examples,
    /// Rows to score; may be empty.
    pub valid: Examples,
}

/// Batches in one pass over so many examples.
#[must_use]
pub fn batches_per_epoch(examples: usize, batch_size: usize) -> u64 {
    examples.div_ceil(batch_size.max(1)) as u64
}

/// The endless sequence of epochs. A batch depends on its number alone, so that a resumed run finds its place.
#[derive(Debug)]
pub(super) struct Batches<'a> {
    examples: &'a Examples,
    batch_size: usize,
    seed: u64,
    cut: EvaluationPlan,
    /// Epoch and its batches.
    order: Option<(u64, Vec<Vec<usize>>)>,
}

impl<'a> Batches<'a> {
    /// `examples` in batches of `batch_size`, cut and padded as for an evaluation.
    pub(super) fn new(examples: &'a Examples, batch_size: usize, seed: u64, cut: EvaluationPlan) -> Self {
        Self { examples, batch_size, seed, cut, order: None }
    }

    /// Number of batches in an epoch.
    pub(super) fn per_epoch(&self) -> u64 {
        batches_per_epoch(self.examples.len(), self.batch_size)
    }

    /// Batch number `index`, in parts of at most `size`.
    pub(super) fn get(&mut self, index: u64, size: PassSize) -> Vec<Batch> {
        let &mut Self { examples, batch_size, seed, cut, .. } = self;
        let per_epoch = self.per_epoch();
        let epoch = index / per_epoch;
        if self.order.as_ref().is_none_or(|(current, _)| *current != epoch) {
            self.order = Some((epoch, epoch_batches(&examples.lengths(), batch_size, seed, epoch)));
        }
        let order = self.order.iter().flat_map(|(_, batches)| &batches[(index % per_epoch) as usize]);
        divide(examples, &order.copied().collect::<Vec<_>>(), cut, size)
    }
}

/// This process's share of the examples of these numbers, in batches of at most `size`, each as long as its own longest
/// row. Pairs stay whole.
pub(super) fn divide(
    examples: &Examples,
    numbers: &[usize],
    cut: EvaluationPlan,
    size: PassSize,
) -> Vec<Batch> {
    let numbers: Vec<usize> =
        numbers.iter().skip(cut.group.rank()).step_by(cut.group.size()).copied().collect();
    let longest = numbers.iter().map(|&number| examples.length(number).min(cut.max_seq_length)).max();
    let at_once = (size.rows(longest.unwrap_or(0)) / examples.rows_per_example()).max(1);
    numbers.chunks(at_once).map(|part| examples.batch(part, cut.max_seq_length, cut.pad)).collect()
}
