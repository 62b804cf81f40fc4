//! The same columns of every client, in f64.

use std::ops::Range;

use super::number::{Number, Values, ValuesMut, with_values};
use crate::runtime::isa::{Isa, vectorized};

/// Linear combinations of clients, a row of coefficients each.
pub type Mixture = [Vec<f64>];

/// Columns of all clients, or of mixtures of them, row by row.
pub(super) struct Block {
    /// `[clients, width]`
    raw: Vec<f64>,
    /// `[mixtures, width]`
    mixed: Vec<f64>,
}

impl Block {
    pub(super) fn new() -> Self {
        Self { raw: Vec::new(), mixed: Vec::new() }
    }

    /// Reads `columns` of every client and returns `[clients or mixtures, width]`.
    pub(super) fn load(
        &mut self,
        isa: Isa,
        clients: &[Values],
        columns: &Range<usize>,
        mixture: Option<&Mixture>,
    ) -> &mut [f64] {
        let width = columns.len();
        self.raw.resize(clients.len() * width, 0.0);
        for (values, row) in clients.iter().zip(self.raw.chunks_mut(width)) {
            with_values!(Values, values, slice => widen(isa, &slice[columns.clone()], row));
        }
        let Some(mixture) = mixture else { return &mut self.raw };
        self.mixed.clear();
        self.mixed.resize(mixture.len() * width, 0.0);
        for (coefficients, row) in mixture.iter().zip(self.mixed.chunks_mut(width)) {
            for (&coefficient, raw) in coefficients.iter().zip(self.raw.chunks(width)) {
                if coefficient != 0.0 {
                    add_scaled(isa, row, raw, coefficient);
                }
            }
        }
        &mut self.mixed
    }
}

/// Rounds `wide` into `out`.
pub(super) fn store(isa: Isa, wide: &[f64], out: &mut ValuesMut) {
    with_values!(ValuesMut, out, slice => narrow(isa, wide, slice));
}

vectorized! {
    fn widen<T: Number>(row: &[T], wide: &mut [f64]) {
        for (wide, x) in wide.iter_mut().zip(row) {
            *wide = x.wide();
        }
    }

    fn narrow<T: Number>(wide: &[f64], row: &mut [T]) {
        for (x, wide) in row.iter_mut().zip(wide) {
            *x = T::narrow(*wide);
        }
    }

    /// `sum += factor·row`
    pub(super) fn add_scaled<T: Number>(sum: &mut [f64], row: &[T], factor: f64) {
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum += factor * x.wide();
        }
    }
}
