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
    data: &'a [T],
    shape: (usize, usize),
}

impl<'a, T> Dense<'a, T> {
    /// `shape` is `(rows, columns)`.
    pub(in crate::kernels) fn new(data: &'a [T], shape: (usize, usize)) -> Self {
        assert_eq!(data.len(), shape.0 * shape.1, "gemm: a matrix of {shape:?}");
        Self { data, shape }
    }
}

impl<T: Element> Rows for Dense<'_, T> {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn read(&self, _isa: Isa, row: usize, columns: Range<usize>, wide: &mut [f32]) {
        T::widen(&self.data[row * self.shape.1..][columns], wide);
    }

    fn read_bf16(&self, _isa: Isa, row: usize, columns: Range<usize>, narrow: &mut [bf16]) {
        T::to_bf16(&self.data[row * self.shape.1..][columns], narrow);
    }
}
