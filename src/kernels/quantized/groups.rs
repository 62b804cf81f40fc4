//! Scales and biases of packed weights, widened for products.

use std::ops::Range;

use super::super::isa::Isa;
use super::super::scratch::{self, Scratch};
use super::activations::MOST_GROUP;
use super::format::QuantizedRows;

/// Columns of the groups of a product.
pub(super) fn group_size(weights: &QuantizedRows) -> usize {
    weights.format.group_size().min(MOST_GROUP)
}

/// Scales and biases of some rows, in groups of at most [`MOST_GROUP`] columns.
pub(super) struct Groups {
    pub scales: Scratch<f32>,
    pub biases: Scratch<f32>,
    /// Groups of a row.
    pub count: usize,
}

impl Groups {
    pub(super) fn of(isa: Isa, weights: &QuantizedRows, rows: Range<usize>) -> Self {
        let mut groups = Self::room(weights, rows.len());
        groups.read(isa, weights, rows);
        groups
    }

    /// Room for those of at most `rows` rows, of unspecified content.
    pub(super) fn room(weights: &QuantizedRows, rows: usize) -> Self {
        let count = weights.groups() * Self::parts(weights);
        Self { scales: scratch::take(rows * count), biases: scratch::take(rows * count), count }
    }

    /// Groups here for each that is stored.
    fn parts(weights: &QuantizedRows) -> usize {
        weights.format.group_size().div_ceil(MOST_GROUP)
    }

    /// Those of `rows` come first.
    pub(super) fn read(&mut self, isa: Isa, weights: &QuantizedRows, rows: Range<usize>) {
        let parts = Self::parts(weights);
        let stored = rows.start * weights.groups()..rows.end * weights.groups();
        let len = stored.len();
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
