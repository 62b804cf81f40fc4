//! Rows of a sparse matrix of floating-point numbers.

use std::ops::Range;

use half::bf16;

use crate::bitmask::expand;
use crate::bitmask::layout::{View, WORD, count};
use crate::gemm::{Dense, Rows};
use crate::runtime::element::Element;
use crate::runtime::isa::Isa;
use crate::runtime::scratch;

/// A sparse matrix whose numbers are `T`.
#[derive(Clone, Copy)]
pub(crate) struct SparseRows<'a, T> {
    pub(super) view: View<'a>,
    numbers: &'a [T],
}

impl<'a, T: Element> SparseRows<'a, T> {
    /// # Panics
    /// If the numbers are not `T`.
    pub(crate) fn new(view: View<'a>) -> Self {
        assert_eq!(view.layout.storage.bits(), size_of::<T>() * 8, "sparse: another dtype");
        Self { view, numbers: bytemuck::cast_slice(view.numbers) }
    }

    /// The numbers from those of `row` on, and its mask.
    pub(super) fn row(&self, row: usize) -> (&'a [T], &'a [u32]) {
        (&self.numbers[self.view.offsets[row] as usize..], self.view.row_mask(row))
    }

    /// Calls `read` with `columns` of `row`.
    pub(super) fn expand(&self, isa: Isa, row: usize, columns: Range<usize>, read: impl FnOnce(&[T])) {
        assert!(columns.end <= self.view.layout.columns);
        let (numbers, mask) = self.row(row);
        let (before, mask) = mask.split_at(columns.start / WORD);
        let mask = &mask[..columns.end.div_ceil(WORD) - before.len()];
        let mut all = scratch::take::<T>(mask.len() * WORD);
        // SAFETY: what packed the matrix wrote a number for each place of the mask, and room behind the last one.
        unsafe { expand::numbers(isa, &numbers[count(before)..], mask, &mut all) };
        let start = columns.start % WORD;
        read(&all[start..start + columns.len()]);
    }
}

impl<T: Element> Rows for SparseRows<'_, T> {
    fn shape(&self) -> (usize, usize) {
        self.view.layout.shape()
    }

    fn read(&self, isa: Isa, row: usize, columns: Range<usize>, wide: &mut [f32]) {
        self.expand(isa, row, columns, |part| {
            Dense::new(part, (1, part.len())).read(isa, 0, 0..part.len(), wide);
        });
    }

    fn read_bf16(&self, isa: Isa, row: usize, columns: Range<usize>, narrow: &mut [bf16]) {
        self.expand(isa, row, columns, |part| {
            Dense::new(part, (1, part.len())).read_bf16(isa, 0, 0..part.len(), narrow);
        });
    }
}

/// Evaluates `$body` with `$rows` bound to the [`SparseRows`] of a [`View`] of floating-point numbers.
macro_rules! with_sparse_rows {
    ($view:expr, $rows:ident => $body:expr) => {{
        let view = $view;
        match view.layout.storage {
            $crate::bitmask::Storage::F32 => {
                let $rows = $crate::sparse::SparseRows::<f32>::new(view);
                $body
            }
            $crate::bitmask::Storage::F16 => {
                let $rows = $crate::sparse::SparseRows::<half::f16>::new(view);
                $body
            }
            $crate::bitmask::Storage::Bf16 => {
                let $rows = $crate::sparse::SparseRows::<half::bf16>::new(view);
                $body
            }
            $crate::bitmask::Storage::Codes { .. } => unreachable!("codes are quantized rows"),
        }
    }};
}
pub(crate) use with_sparse_rows;
