//! Rows to learn from that stay on disk: a window of them at a time is read, tokenised and put into batches.
//!
//! The order is that of rows in memory, which [`epoch_batches`](crate::data::epoch_batches) describes, and so are the batches,
//! but that a row from which nothing is to be learned gives its place to another of its window.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::dataset::Streamed;
use super::index::LineReader;
use super::rows::Rows;
use crate::data::batches::Examples;
use crate::data::batches::epoch::{epoch_order, window_batches, window_rows};
use crate::data::batches::pack::plan;
use crate::data::samples::Sample;
use crate::data::samples::tokenize::{cut_row, nothing_to_learn, samples_of};
use crate::{Error, Result};

/// Rows that are packed together, at least: among fewer there is not always one that fits.
const PACKED_TOGETHER: usize = 1024;

/// Examples, and the batches they come in.
#[derive(Debug)]
pub struct Window {
    /// The samples of the window.
    pub examples: Examples,
    /// Examples of each batch.
    pub batches: Vec<Vec<usize>>,
    /// Number of the first batch since training began.
    pub first: u64,
    /// Passes over the data before and after it, fractional.
    pub epochs: [f64; 2],
}

impl Window {
    /// Number of the batch after the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }
}

/// The endless sequence of windows.
pub struct Windows<'a, 't> {
    stream: &'a Streamed<'t>,
    reader: LineReader<'a>,
    /// Rows of a window.
    size: usize,
    batch_size: usize,
    seed: u64,
    epoch: u64,
    /// Rows of this epoch; empty before the first of its windows.
    order: Vec<usize>,
    /// So many of them were read.
    done: usize,
    /// Number of the next batch.
    first: u64,
    /// Samples that did not fill a batch of packed rows.
    carried: Vec<Sample>,
    /// Tokens of the longest row so far.
    longest: usize,
}

impl Iterator for Windows<'_, '_> {
    type Item = Result<Window>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.read())
    }
}

impl<'a, 't> Windows<'a, 't> {
    /// Of `stream`, from the one that holds batch number `first`, or an earlier one.
    #[must_use]
    pub fn new(stream: &'a Streamed<'t>, batch_size: usize, seed: u64, first: u64) -> Self {
        let size = window_rows(batch_size).max(if stream.packing { PACKED_TOGETHER } else { 0 });
        let mut windows = Self {
            stream,
            reader: stream.rows.lines.reader(),
            size,
            batch_size,
            seed,
            epoch: 0,
            order: Vec::new(),
            done: 0,
            first: 0,
            carried: Vec::new(),
            longest: 0,
        };
        // How many rows packing leaves is known only when they are packed.
        if !stream.packing {
            let batches = |rows: usize| rows.div_ceil(batch_size.max(1)) as u64;
            let rows = stream.rows.len();
            let (epoch, within) = (first / batches(rows), first % batches(rows));
            let number = within / batches(size);
            windows.epoch = epoch;
            windows.done = number as usize * size;
            windows.first = epoch * batches(rows) + number * batches(size);
        }
        windows
    }
}

impl Windows<'_, '_> {
    fn read(&mut self) -> Result<Window> {
        let (stream, began) = (self.stream, self.epoch);
        loop {
            if self.order.is_empty() {
                self.order = epoch_order(stream.rows.len(), self.seed, self.epoch);
            }
            let (total, number) = (self.order.len(), self.done / self.size);
            let epoch = |done: usize| self.epoch as f64 + done as f64 / total as f64;
            let (name, end) = ([self.epoch, number as u64], total.min(self.done + self.size));
            let epochs = [epoch(self.done), epoch(end)];
            let rows = self.order[self.done..end].to_vec();
            let samples = self.samples(&rows)?;
            let is_last = end == total;
            let samples =
                if stream.packing { self.pack(samples, is_last) } else { self.fill(samples, &rows)? };
            self.done = end;
            if is_last {
                (self.epoch, self.done) = (self.epoch + 1, 0);
                self.order.clear();
            }
            let examples = Examples::new(samples, stream.learned);
            let batches = window_batches(&examples.lengths(), self.batch_size, self.seed, name);
            if batches.is_empty() {
                if self.epoch > began + 1 {
                    return Err(self.nothing(&rows));
                }
                continue;
            }
            let window = Window { examples, epochs, first: self.first, batches };
            self.first = window.end();
            return Ok(window);
        }
    }

    /// Samples of these rows, without those that teach nothing.
    fn samples(&mut self, rows: &[usize]) -> Result<Vec<Sample>> {
        let stream = self.stream;
        let (mut samples, mut truncated, mut dropped) = (Vec::with_capacity(rows.len()), 0, 0);
        for &number in rows {
            let located = self.reader.read(stream.rows.addresses[number])?;
            let mut of_row = samples_of(&located, stream.tokenizer, stream.learned)?;
            let longest = of_row.iter().map(Sample::len).max().unwrap_or(0);
            self.longest = self.longest.max(longest);
            if cut_row(&mut of_row, stream.max_seq_length) {
                truncated += usize::from(longest > stream.max_seq_length);
                samples.append(&mut of_row);
            } else {
                dropped += 1;
            }
        }
        if self.epoch == 0 {
            stream.truncated.fetch_add(truncated, Ordering::Relaxed);
            stream.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        Ok(samples)
    }

    /// Samples of `rows` with repetitions in the place of those that teach nothing, so that batches can be counted before
    /// they are read.
    fn fill(&self, mut samples: Vec<Sample>, rows: &[usize]) -> Result<Vec<Sample>> {
        let (found, wanted) = (samples.len(), rows.len() * self.stream.learned.samples_per_row());
        if found == 0 {
            return Err(self.nothing(rows));
        }
        for number in 0..wanted - found {
            samples.push(samples[number].clone());
        }
        Ok(samples)
    }

    /// Packed rows, in whole batches unless they are the last of an epoch.
    fn pack(&mut self, mut samples: Vec<Sample>, is_last: bool) -> Vec<Sample> {
        samples.splice(..0, self.carried.drain(..));
        let lengths: Vec<usize> = samples.iter().map(Sample::len).collect();
        let mut rows = plan(&lengths, self.stream.max_seq_length);
        let whole = rows.len() - rows.len() % self.batch_size.max(1);
        // Rows that were opened last are the emptiest.
        let rest = rows.split_off(if is_last { rows.len() } else { whole });
        self.carried = rest.concat().into_iter().map(|place| samples[place].clone()).collect();
        rows.iter().map(|row| Sample::joined(row.iter().map(|&place| &samples[place]))).collect()
    }

    fn nothing(&self, rows: &[usize]) -> Error {
        let Rows { lines, addresses } = &self.stream.rows;
        let path = rows.first().map_or(Path::new(""), |&row| lines.path(addresses[row]));
        nothing_to_learn(path, rows.len(), self.longest, self.stream.max_seq_length)
    }
}

#[cfg(test)]
mod tests;
