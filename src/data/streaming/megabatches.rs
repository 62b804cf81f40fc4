//! Reads a [`StreamingDataset`] one megabatch at a time.
//!
//! Order and batches are those of rows in memory, see [`epoch_batches`](crate::data::epoch_batches), except that a
//! row without targets is replaced by another row of its megabatch.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::dataset::StreamingDataset;
use super::index::RowReader;
use super::rows::IndexedRows;
use crate::data::batches::Examples;
use crate::data::batches::epoch::{epoch_order, length_grouped_batches, megabatch_rows};
use crate::data::batches::pack::best_fit_decreasing;
use crate::data::samples::Sample;
use crate::data::samples::tokenize::{encode_rows, no_targets_error, truncate_row};
use crate::{Error, Result};

/// Minimum number of rows that are packed together; with fewer, too much space is left.
const MIN_ROWS_TO_PACK: usize = 1024;

/// Examples that are in memory together, and their batches.
#[derive(Debug)]
pub struct Megabatch {
    /// The examples.
    pub examples: Examples,
    /// Indices of the examples of each batch.
    pub batches: Vec<Vec<usize>>,
    /// Index of the first batch, counted from the start of training.
    pub first: u64,
    /// Epochs completed before and after this megabatch, fractional.
    pub epochs: [f64; 2],
}

impl Megabatch {
    /// Index of the last batch plus one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }
}

/// An endless iterator over megabatches.
pub struct Megabatches<'a, 't> {
    dataset: &'a StreamingDataset<'t>,
    reader: RowReader<'a>,
    /// Rows per megabatch.
    size: usize,
    batch_size: usize,
    seed: u64,
    epoch: u64,
    /// Rows of the current epoch; empty before its first megabatch.
    order: Vec<usize>,
    /// Number of rows read of the current epoch.
    rows_read: usize,
    /// Index of the next batch.
    first: u64,
    /// Samples of packed rows that did not fill a batch.
    leftover: Vec<Sample>,
    /// Number of tokens of the longest row so far.
    longest_row: usize,
}

impl Iterator for Megabatches<'_, '_> {
    type Item = Result<Megabatch>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_megabatch())
    }
}

impl<'a, 't> Megabatches<'a, 't> {
    /// Starts with the megabatch that contains batch `first`, or with an earlier one.
    #[must_use]
    pub fn new(dataset: &'a StreamingDataset<'t>, batch_size: usize, seed: u64, first: u64) -> Self {
        let size = megabatch_rows(batch_size).max(if dataset.packing { MIN_ROWS_TO_PACK } else { 0 });
        let mut megabatches = Self {
            dataset,
            reader: dataset.rows.files.reader(),
            size,
            batch_size,
            seed,
            epoch: 0,
            order: Vec::new(),
            rows_read: 0,
            first: 0,
            leftover: Vec::new(),
            longest_row: 0,
        };
        // With packing, the number of batches is known only after the rows were packed.
        if !dataset.packing {
            let batches = |rows: usize| rows.div_ceil(batch_size.max(1)) as u64;
            let rows = dataset.rows.len();
            let (epoch, within) = (first / batches(rows), first % batches(rows));
            let index = within / batches(size);
            megabatches.epoch = epoch;
            megabatches.rows_read = index as usize * size;
            megabatches.first = epoch * batches(rows) + index * batches(size);
        }
        megabatches
    }

    fn next_megabatch(&mut self) -> Result<Megabatch> {
        let (dataset, first_epoch) = (self.dataset, self.epoch);
        loop {
            if self.order.is_empty() {
                self.order = epoch_order(dataset.rows.len(), self.seed, self.epoch);
            }
            let (total, index) = (self.order.len(), self.rows_read / self.size);
            let epoch = |rows_read: usize| self.epoch as f64 + rows_read as f64 / total as f64;
            let (id, end) = ([self.epoch, index as u64], total.min(self.rows_read + self.size));
            let epochs = [epoch(self.rows_read), epoch(end)];
            let rows = self.order[self.rows_read..end].to_vec();
            let samples = self.samples(&rows)?;
            let is_last = end == total;
            let samples = if dataset.packing {
                self.pack(samples, is_last)
            } else {
                self.fill_with_repetitions(samples, &rows)?
            };
            self.rows_read = end;
            if is_last {
                (self.epoch, self.rows_read) = (self.epoch + 1, 0);
                self.order.clear();
            }
            let examples = Examples::new(samples, dataset.labels);
            let batches = length_grouped_batches(&examples.lengths(), self.batch_size, self.seed, id);
            if batches.is_empty() {
                if self.epoch > first_epoch + 1 {
                    return Err(self.no_targets(&rows));
                }
                continue;
            }
            let megabatch = Megabatch { examples, epochs, first: self.first, batches };
            self.first = megabatch.end();
            return Ok(megabatch);
        }
    }

    /// Reads and tokenizes rows, without those that have no targets.
    fn samples(&mut self, rows: &[usize]) -> Result<Vec<Sample>> {
        let dataset = self.dataset;
        let (mut samples, mut truncated, mut dropped) = (Vec::with_capacity(rows.len()), 0, 0);
        let mut unmarked_turns = 0;
        let located = rows
            .iter()
            .map(|&row| self.reader.read(dataset.rows.offsets[row]))
            .collect::<Result<Vec<_>>>()?;
        let encoded = encode_rows(&located, dataset.tokenizer, dataset.labels)?;
        let mut encoded = encoded.into_iter();
        for _ in rows {
            let mut row_samples: Vec<Sample> =
                encoded.by_ref().take(dataset.labels.samples_per_row()).collect();
            let longest_row = row_samples.iter().map(Sample::len).max().unwrap_or(0);
            self.longest_row = self.longest_row.max(longest_row);
            unmarked_turns += row_samples.iter().map(|sample| sample.unmarked_turns).sum::<usize>();
            if truncate_row(&mut row_samples, dataset.max_seq_length) {
                truncated += usize::from(longest_row > dataset.max_seq_length);
                samples.append(&mut row_samples);
            } else {
                dropped += 1;
            }
        }
        if self.epoch == 0 {
            dataset.truncated.fetch_add(truncated, Ordering::Relaxed);
            dataset.dropped.fetch_add(dropped, Ordering::Relaxed);
            dataset.unmarked_turns.fetch_add(unmarked_turns, Ordering::Relaxed);
        }
        Ok(samples)
    }

    /// Repeats samples in place of dropped rows, so that the number of batches does not depend on the data.
    fn fill_with_repetitions(&self, mut samples: Vec<Sample>, rows: &[usize]) -> Result<Vec<Sample>> {
        let (kept, total) = (samples.len(), rows.len() * self.dataset.labels.samples_per_row());
        if kept == 0 {
            return Err(self.no_targets(rows));
        }
        for index in 0..total - kept {
            samples.push(samples[index].clone());
        }
        Ok(samples)
    }

    /// Packs samples into rows, in whole batches unless they are the last of an epoch.
    fn pack(&mut self, mut samples: Vec<Sample>, is_last: bool) -> Vec<Sample> {
        samples.splice(..0, self.leftover.drain(..));
        let lengths: Vec<usize> = samples.iter().map(Sample::len).collect();
        let mut rows = best_fit_decreasing(&lengths, self.dataset.max_seq_length);
        let whole = rows.len() - rows.len() % self.batch_size.max(1);
        // The rows opened last have the most space left.
        let rest = rows.split_off(if is_last { rows.len() } else { whole });
        self.leftover = rest.concat().into_iter().map(|index| samples[index].clone()).collect();
        rows.iter().map(|row| Sample::concatenate(row.iter().map(|&index| &samples[index]))).collect()
    }

    fn no_targets(&self, rows: &[usize]) -> Error {
        let IndexedRows { files, offsets } = &self.dataset.rows;
        let path = rows.first().map_or(Path::new(""), |&row| files.path(offsets[row]));
        no_targets_error(path, rows.len(), self.longest_row, self.dataset.max_seq_length)
    }
}

#[cfg(test)]
mod tests;
