//! Scales and biases of quantized weights as f32.

use std::ops::Range;

use super::activations::MAX_GROUP_SIZE;
use super::rows::QuantizedRows;
use crate::runtime::isa::Isa;
use crate::runtime::scratch::{self, Scratch};

/// Columns of the groups of a product.
pub(super) fn group_size(weights: &QuantizedRows) -> usize {
    weights.format.group_size().min(MAX_GROUP_SIZE)
}

/// Scales and biases of some rows, in groups of at most [`MAX_GROUP_SIZE`] columns.
pub(super) struct WidenedGroups {
    scales: Scratch<f32>,
    biases: Scratch<f32>,
    /// Groups of a row.
    pub count: usize,
    /// Groups of the rows that were read last.
    len: usize,
}

impl WidenedGroups {
    pub(super) fn of(isa: Isa, weights: &QuantizedRows, rows: Range<usize>) -> Self {
        let mut groups = Self::with_capacity(weights, rows.len());
        groups.read(isa, weights, rows);
        groups
    }

    /// Room for those of at most `rows` rows, of unspecified content.
    pub(super) fn with_capacity(weights: &QuantizedRows, rows: usize) -> Self {
        let count = weights.groups() * Self::parts(weights);
        Self { scales: scratch::take(rows * count), biases: scratch::take(rows * count), count, len: 0 }
    }

    /// Groups here for each that is stored.
    fn parts(weights: &QuantizedRows) -> usize {
        weights.format.group_size().div_ceil(MAX_GROUP_SIZE)
    }

    /// Scales and biases of the rows that were read last, `[rows, count]`.
    pub(super) fn of_rows(&self) -> (&[f32], &[f32]) {
        (&self.scales[..self.len], &self.biases[..self.len])
    }

    /// Reads those of `rows`.
    pub(super) fn read(&mut self, isa: Isa, weights: &QuantizedRows, rows: Range<usize>) {
        let parts = Self::parts(weights);
        // Memory of those that follow comes while the codes of these are read.
        weights.prefetch_groups(rows.end..(rows.end + rows.len()).min(weights.rows));
        let stored = rows.start * weights.groups()..rows.end * weights.groups();
        let len = stored.len();
        self.len = len * parts;
        weights.read_groups(isa, stored, &mut self.scales[..len], &mut self.biases[..len]);
        for numbers in [&mut self.scales, &mut self.biases] {
            if parts > 1 {
                for i in (0..len * parts).rev() {
                    numbers[i] = numbers[i / parts];
                }
            }
        }
    }
}
