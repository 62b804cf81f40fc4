//! Rows to learn from that stay on disk: a window of them at a time is read, tokenised and put into batches.
//!
//! The order is that of rows in memory, which [`epoch_batches`](crate::data::epoch_batches) describes, and so are the batches,
//! but that a row from which nothing is to be learned gives its place to another of its window.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::dataset::StreamingDataset;
use super::index::RowReader;
use super::rows::IndexedRows;
use crate::data::batches::Examples;
use crate::data::batches::epoch::{epoch_order, length_grouped_batches, megabatch_rows};
use crate::data::batches::pack::best_fit_decreasing;
use crate::data::samples::Sample;
use crate::data::samples::tokenize::{encode_row, no_targets_error, truncate_row};
use crate::{Error, Result};

/// Rows that are packed together, at least: among fewer there is not always one that fits.
const MIN_ROWS_TO_PACK: usize = 1024;

/// Examples, and the batches they come in.
#[derive(Debug)]
pub struct Megabatch {
    /// The samples of the window.
    pub examples: Examples,
    /// Examples of each batch.
    pub batches: Vec<Vec<usize>>,
    /// Number of the first batch since training began.
    pub first: u64,
    /// Passes over the data before and after it, fractional.
    pub epochs: [f64; 2],
}

impl Megabatch {
    /// Number of the batch after the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }
}

/// The endless sequence of megabatches.
pub struct Megabatches<'a, 't> {
    dataset: &'a StreamingDataset<'t>,
    reader: RowReader<'a>,
    /// Rows of a window.
    size: usize,
    batch_size: usize,
    seed: u64,
    epoch: u64,
    /// Rows of this epoch; empty before the first of its megabatches.
    order: Vec<usize>,
    /// So many of them were read.
    rows_read: usize,
    /// Number of the next batch.
    first: u64,
    /// Samples that did not fill a batch of packed rows.
    leftover: Vec<Sample>,
    /// Tokens of the longest row so far.
    longest_row: usize,
}

impl Iterator for Megabatches<'_, '_> {
    type Item = Result<Megabatch>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_megabatch())
    }
}

impl<'a, 't> Megabatches<'a, 't> {
    /// Of `dataset`, from the one that holds batch number `first`, or an earlier one.
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
        // How many rows packing leaves is known only when they are packed.
        if !dataset.packing {
            let batches = |rows: usize| rows.div_ceil(batch_size.max(1)) as u64;
            let rows = dataset.rows.len();
            let (epoch, within) = (first / batches(rows), first % batches(rows));
            let number = within / batches(size);
            megabatches.epoch = epoch;
            megabatches.rows_read = number as usize * size;
            megabatches.first = epoch * batches(rows) + number * batches(size);
        }
        megabatches
    }

    fn next_megabatch(&mut self) -> Result<Megabatch> {
        let (dataset, first_epoch) = (self.dataset, self.epoch);
        loop {
            if self.order.is_empty() {
                self.order = epoch_order(dataset.rows.len(), self.seed, self.epoch);
            }
            let (total, number) = (self.order.len(), self.rows_read / self.size);
            let epoch = |rows_read: usize| self.epoch as f64 + rows_read as f64 / total as f64;
            let (name, end) = ([self.epoch, number as u64], total.min(self.rows_read + self.size));
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
            let batches = length_grouped_batches(&examples.lengths(), self.batch_size, self.seed, name);
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

    /// Samples of these rows, without those that teach nothing.
    fn samples(&mut self, rows: &[usize]) -> Result<Vec<Sample>> {
        let dataset = self.dataset;
        let (mut samples, mut truncated, mut dropped) = (Vec::with_capacity(rows.len()), 0, 0);
        for &number in rows {
            let located = self.reader.read(dataset.rows.offsets[number])?;
            let mut row_samples = encode_row(&located, dataset.tokenizer, dataset.labels)?;
            let longest_row = row_samples.iter().map(Sample::len).max().unwrap_or(0);
            self.longest_row = self.longest_row.max(longest_row);
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
        }
        Ok(samples)
    }

    /// Samples of `rows` with repetitions in the place of those that teach nothing, so that batches can be counted before
    /// they are read.
    fn fill_with_repetitions(&self, mut samples: Vec<Sample>, rows: &[usize]) -> Result<Vec<Sample>> {
        let (found, wanted) = (samples.len(), rows.len() * self.dataset.labels.samples_per_row());
        if found == 0 {
            return Err(self.no_targets(rows));
        }
        for number in 0..wanted - found {
            samples.push(samples[number].clone());
        }
        Ok(samples)
    }

    /// Packed rows, in whole batches unless they are the last of an epoch.
    fn pack(&mut self, mut samples: Vec<Sample>, is_last: bool) -> Vec<Sample> {
        samples.splice(..0, self.leftover.drain(..));
        let lengths: Vec<usize> = samples.iter().map(Sample::len).collect();
        let mut rows = best_fit_decreasing(&lengths, self.dataset.max_seq_length);
        let whole = rows.len() - rows.len() % self.batch_size.max(1);
        // Rows that were opened last are the emptiest.
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
