//! Batches of calibration sequences.

use std::ops::Range;
use std::thread::Scope;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::Result;
use crate::kernels::group::Group;
use crate::train::plan::Plan;
use crate::train::task::batch::Batch;
use crate::train::task::data::{DataLoader, DataModule};
use crate::train::task::max_tokens::MaxTokens;

/// Sequences for training and validation.
#[derive(Debug)]
pub(super) struct SequenceData {
    /// Numbers of the sequences to train on.
    pub train: Vec<usize>,
    /// Numbers of the sequences to validate on.
    pub valid: Vec<usize>,
    /// Tokens per sequence.
    pub length: usize,
}

/// Some sequences, or their first tokens.
#[derive(Debug, Clone)]
pub(super) struct SequenceBatch {
    /// Numbers of the sequences.
    pub sequences: Vec<usize>,
    /// Tokens of each that are used.
    pub length: usize,
}

impl Batch for SequenceBatch {
    fn rows(&self) -> usize {
        self.sequences.len()
    }

    fn row_length(&self) -> usize {
        self.length
    }

    fn tokens(&self) -> usize {
        self.sequences.len() * self.length
    }

    fn is_divisible(&self) -> bool {
        self.sequences.len() > 1
    }
}

impl SequenceData {
    /// Sets every eighth of `sequences` aside for validation, if there are eight.
    pub(super) fn split(sequences: &[Vec<u32>]) -> Self {
        let (valid, train) = (0..sequences.len()).partition(|index| index % 8 == 7);
        Self { train, valid, length: sequences.first().map_or(0, Vec::len) }
    }

    fn batches_of(&self, sequences: &[usize], max_tokens: MaxTokens) -> Vec<SequenceBatch> {
        let batch = |part: &[usize]| SequenceBatch { sequences: part.to_vec(), length: self.length };
        sequences.chunks(max_tokens.rows(self.length)).map(batch).collect()
    }
}

struct SequenceLoader<'a> {
    data: &'a SequenceData,
    batch_size: usize,
    seed: u64,
}

impl SequenceLoader<'_> {
    fn per_epoch(&self) -> u64 {
        self.data.train.len().div_ceil(self.batch_size) as u64
    }

    /// Numbers of the sequences of batch `number`.
    fn sequences(&self, number: u64) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(number / self.per_epoch());
        let mut order = self.data.train.clone();
        order.shuffle(&mut rng);
        let start = (number % self.per_epoch()) as usize * self.batch_size;
        order.into_iter().skip(start).take(self.batch_size).collect()
    }
}

impl DataLoader for SequenceLoader<'_> {
    type Batch = SequenceBatch;

    fn get(&mut self, numbers: Range<u64>, max_tokens: MaxTokens) -> Result<Vec<Vec<SequenceBatch>>> {
        Ok(numbers.map(|number| self.data.batches_of(&self.sequences(number), max_tokens)).collect())
    }

    fn epoch(&self, number: u64) -> f64 {
        number as f64 / self.per_epoch() as f64
    }
}

impl DataModule for SequenceData {
    type Batch = SequenceBatch;

    fn len(&self) -> usize {
        self.train.len()
    }

    fn batches<'scope, 'env>(
        &'env self,
        plan: &Plan,
        _first: u64,
        _scope: &'scope Scope<'scope, 'env>,
    ) -> Box<dyn DataLoader<Batch = SequenceBatch> + 'env> {
        Box::new(SequenceLoader { data: self, batch_size: plan.batch_size.max(1), seed: plan.seed })
    }

    fn has_validation(&self) -> bool {
        !self.valid.is_empty()
    }

    fn validation<'a>(
        &'a self,
        plan: &'a Plan,
        _group: Group,
        max_tokens: MaxTokens,
    ) -> Box<dyn Iterator<Item = SequenceBatch> + 'a> {
        let batches = self.valid.chunks(plan.batch_size.max(1));
        Box::new(batches.flat_map(move |batch| self.batches_of(batch, max_tokens)))
    }

    fn longest_row(&self) -> usize {
        self.length
    }

    fn probe_batch(&self, length: usize) -> SequenceBatch {
        SequenceBatch { sequences: self.train.iter().take(1).copied().collect(), length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_every_training_sequence_once_in_an_order_of_its_own() {
        let data = SequenceData::split(&vec![vec![0; 16]; 17]);
        assert_eq!(data.valid, [7, 15]);
        let mut loader = SequenceLoader { data: &data, batch_size: 4, seed: 1 };
        let epoch = |loader: &mut SequenceLoader, numbers| {
            let batches = loader.get(numbers, MaxTokens::UNLIMITED).unwrap();
            batches.into_iter().flatten().flat_map(|batch| batch.sequences).collect::<Vec<_>>()
        };
        let (first, second) = (epoch(&mut loader, 0..4), epoch(&mut loader, 4..8));
        assert_ne!(first, second);
        assert_eq!(epoch(&mut loader, 4..8), second);
        for mut sequences in [first, second] {
            sequences.sort_unstable();
            assert_eq!(sequences, data.train);
        }
        assert!((loader.epoch(6) - 1.5).abs() < 1e-12);
    }
}
