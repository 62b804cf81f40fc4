//! Codes of a sparse quantized matrix.

use std::ops::Range;

use super::expand;
use super::fill::Fill;
use super::layout::{PADDING, View, WORD, count};
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::scratch;

/// A sparse matrix of codes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SparseCodes<'a> {
    view: View<'a>,
}

impl<'a> SparseCodes<'a> {
    /// # Panics
    /// If the numbers are no codes.
    pub(crate) fn new(view: View<'a>) -> Self {
        assert!(view.layout.groups() > 0 || view.layout.columns == 0, "sparse: no codes");
        Self { view }
    }

    /// Bytes of all rows, without scales and biases.
    pub(crate) fn bytes(&self) -> usize {
        self.view.layout.bytes + size_of_val(self.view.mask) + self.view.fill.len()
    }

    /// Writes `columns` of `row`, both ends of which are multiples of 32.
    pub(crate) fn read(&self, isa: Isa, row: usize, columns: Range<usize>, levels: &mut [u8]) {
        let layout = self.view.layout;
        assert!(columns.start.is_multiple_of(WORD) && columns.end <= layout.columns);
        let (before, mask) = self.view.row_mask(row).split_at(columns.start / WORD);
        let mask = &mask[..columns.len() / WORD];
        let groups = layout.groups();
        let words = (layout.columns / groups.max(1) / WORD).max(1);
        let fill = Fill {
            codes: &self.view.fill[row * groups + before.len() / words..(row + 1) * groups],
            skipped: before.len() % words,
            shift: words.trailing_zeros(),
        };
        let place = self.view.offsets[row] as usize..self.view.offsets[row + 1] as usize;
        let skipped = count(before);
        if !layout.storage.is_nibbles() {
            // SAFETY: what packed the matrix wrote a code for each place of the mask, and room behind the last one.
            return unsafe {
                expand::codes(isa, &self.view.numbers[place.start + skipped..], mask, fill, levels);
            };
        }
        let mut codes = scratch::take::<u8>(place.len() * 2 + PADDING);
        let stored = place.len() * 2;
        unpack_nibbles(isa, &self.view.numbers[place], &mut codes[..stored]);
        // SAFETY: as above.
        unsafe { expand::codes(isa, &codes[skipped..], mask, fill, levels) }
    }
}

vectorized! {
    /// Two codes of each byte, the lower half first.
    pub(crate) fn unpack_nibbles(bytes: &[u8], codes: &mut [u8]) {
        for (pair, byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
            *pair = [byte & 15, byte >> 4];
        }
    }
}
