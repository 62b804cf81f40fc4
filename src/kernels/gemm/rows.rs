//! Matrices a product can read: anything that gives parts of its rows.

use std::ops::Range;

use half::bf16;

use super::super::element::Element;
use super::super::isa::Isa;

/// A matrix read row by row, whatever its storage.
pub(in crate::kernels) trait Rows: Sync {
    /// `(rows, columns)`
    fn shape(&self) -> (usize, usize);

    /// Writes `columns` of `row` as f32.
    fn read(&self, isa: Isa, row: usize, columns: Range<usize>, wide: &mut [f32]);

    /// Writes `columns` of `row` rounded to bf16.
    fn read_bf16(&self, isa: Isa, row: usize, columns: Range<usize>, narrow: &mut [bf16]);
}

/// A dense matrix, row-major.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Dense<'a, T> {
    pub data: &'a [T],
    pub columns: usize,
}

impl<T: Element> Rows for Dense<'_, T> {
    fn shape(&self) -> (usize, usize) {
        (self.data.len() / self.columns.max(1), self.columns)
    }

    fn read(&self, _isa: Isa, row: usize, columns: Range<usize>, wide: &mut [f32]) {
        T::widen(&self.data[row * self.columns..][columns], wide);
    }

    fn read_bf16(&self, _isa: Isa, row: usize, columns: Range<usize>, narrow: &mut [bf16]) {
        T::to_bf16(&self.data[row * self.columns..][columns], narrow);
    }
}
