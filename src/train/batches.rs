//! What the model reads in which step.

use super::evaluate::EvaluationPlan;
use super::memory::PassSize;
use crate::data::{Batch, Sample, collate, epoch_batches};

/// What to train on.
#[derive(Debug)]
pub struct Data {
    /// Rows to learn.
    pub train: Vec<Sample>,
    /// Rows to score; may be empty.
    pub valid: Vec<Sample>,
}

/// Batches in one pass over `rows` rows.
#[must_use]
pub fn batches_per_epoch(rows: usize, batch_size: usize) -> u64 {
    rows.div_ceil(batch_size.max(1)) as u64
}

/// The endless sequence of epochs. A batch depends on its number alone, so that a resumed run finds its place.
#[derive(Debug)]
pub(super) struct Batches<'a> {
    samples: &'a [Sample],
    batch_size: usize,
    seed: u64,
    cut: EvaluationPlan,
    /// Epoch and its batches.
    order: Option<(u64, Vec<Vec<usize>>)>,
}

impl<'a> Batches<'a> {
    /// `samples` in batches of `batch_size`, cut and padded as for an evaluation.
    pub(super) fn new(samples: &'a [Sample], batch_size: usize, seed: u64, cut: EvaluationPlan) -> Self {
        Self { samples, batch_size, seed, cut, order: None }
    }

    /// Number of batches in an epoch.
    pub(super) fn per_epoch(&self) -> u64 {
        batches_per_epoch(self.samples.len(), self.batch_size)
    }

    /// Batch number `index`, in parts of at most `size`.
    pub(super) fn get(&mut self, index: u64, size: PassSize) -> Vec<Batch> {
        let &mut Self { samples, batch_size, seed, cut, .. } = self;
        let per_epoch = self.per_epoch();
        let epoch = index / per_epoch;
        if self.order.as_ref().is_none_or(|(current, _)| *current != epoch) {
            let lengths: Vec<usize> = samples.iter().map(Sample::len).collect();
            self.order = Some((epoch, epoch_batches(&lengths, batch_size, seed, epoch)));
        }
        let rows = self.order.iter().flat_map(|(_, batches)| &batches[(index % per_epoch) as usize]);
        divide(&rows.map(|&row| &samples[row]).collect::<Vec<_>>(), cut, size)
    }
}

/// `rows` in batches of at most `size`, each as long as its own longest row.
pub(super) fn divide(rows: &[&Sample], cut: EvaluationPlan, size: PassSize) -> Vec<Batch> {
    let longest = rows.iter().map(|row| row.len().min(cut.max_seq_length)).max().unwrap_or(0);
    rows.chunks(size.rows(longest)).map(|part| collate(part, cut.max_seq_length, cut.pad)).collect()
}
