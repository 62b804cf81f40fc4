//! Matrices that products can read: any storage that provides parts of its rows.

use std::ops::Range;

use half::bf16;

use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};

/// A matrix of any storage that is read row by row.
pub(crate) trait Rows: Sync {
    /// `(rows, columns)`
    fn shape(&self) -> (usize, usize);

    /// Reads `columns` of `row` as f32.
    fn read(&self, isa: Isa, row: usize, columns: Range<usize>, wide: &mut [f32]);

    /// Reads `columns` of `row`, rounded to bf16.
    fn read_bf16(&self, isa: Isa, row: usize, columns: Range<usize>, narrow: &mut [bf16]);
}

/// A dense matrix whose rows are `stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Dense<'a, T> {
    data: &'a [T],
    shape: (usize, usize),
    stride: usize,
}

impl<'a, T> Dense<'a, T> {
    /// `shape` is `(rows, columns)`.
    pub(crate) fn new(data: &'a [T], shape: (usize, usize)) -> Self {
        assert_eq!(data.len(), shape.0 * shape.1, "gemm: a matrix of {shape:?}");
        Self { data, shape, stride: shape.1 }
    }

    /// Rows begin `stride` elements apart.
    pub(crate) fn strided(data: &'a [T], shape: (usize, usize), stride: usize) -> Self {
        let last = shape.0.checked_sub(1).map_or(0, |last| last * stride + shape.1);
        assert!(stride >= shape.1 && data.len() >= last, "gemm: a matrix of {shape:?}, rows {stride} apart");
        Self { data, shape, stride }
    }

    /// Some of the columns.
    pub(crate) fn columns(self, columns: Range<usize>) -> Self {
        let data = self.data.get(columns.start..).unwrap_or_default();
        Self { data, shape: (self.shape.0, columns.len()), ..self }
    }

    fn part(&self, row: usize, columns: Range<usize>) -> &'a [T] {
        assert!(row < self.shape.0 && columns.end <= self.shape.1);
        &self.data[row * self.stride..][columns]
    }
}

impl<T: Element> Rows for Dense<'_, T> {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn read(&self, isa: Isa, row: usize, columns: Range<usize>, wide: &mut [f32]) {
        widen(isa, self.part(row, columns), wide);
    }

    fn read_bf16(&self, isa: Isa, row: usize, columns: Range<usize>, narrow: &mut [bf16]) {
        to_bf16(isa, self.part(row, columns), narrow);
    }
}

vectorized! {
    fn widen<T: Element>(row: &[T], wide: &mut [f32]) {
        T::widen(row, wide);
    }

    fn to_bf16<T: Element>(row: &[T], narrow: &mut [bf16]) {
        T::to_bf16(row, narrow);
    }
}

/// Horizontal concatenation of matrices with equal numbers of rows.
pub(crate) struct ConcatColumns<'a>(pub Vec<&'a dyn Rows>);

impl ConcatColumns<'_> {
    /// Calls `read` with each matrix that `columns` touch, its columns and their place among `columns`.
    fn split(&self, columns: &Range<usize>, mut read: impl FnMut(&dyn Rows, Range<usize>, Range<usize>)) {
        let mut start = 0;
        for matrix in &self.0 {
            let end = start + matrix.shape().1;
            let (from, to) = (columns.start.max(start), columns.end.min(end));
            if from < to {
                read(*matrix, from - start..to - start, from - columns.start..to - columns.start);
            }
            start = end;
        }
    }
}

impl Rows for ConcatColumns<'_> {
    fn shape(&self) -> (usize, usize) {
        let rows = self.0.first().map_or(0, |matrix| matrix.shape().0);
        (rows, self.0.iter().map(|matrix| matrix.shape().1).sum())
    }

    fn read(&self, isa: Isa, row: usize, columns: Range<usize>, wide: &mut [f32]) {
        self.split(&columns, |matrix, part, place| matrix.read(isa, row, part, &mut wide[place]));
    }

    fn read_bf16(&self, isa: Isa, row: usize, columns: Range<usize>, narrow: &mut [bf16]) {
        self.split(&columns, |matrix, part, place| matrix.read_bf16(isa, row, part, &mut narrow[place]));
    }
}

/// Gathered rows of a matrix: row `i` is row `map(i)` of `matrix`.
pub(crate) struct GatheredRows<'a, F> {
    pub matrix: &'a dyn Rows,
    pub rows: usize,
    pub map: F,
}

impl<F: Fn(usize) -> usize + Sync> Rows for GatheredRows<'_, F> {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.matrix.shape().1)
    }

    fn read(&self, isa: Isa, row: usize, columns: Range<usize>, wide: &mut [f32]) {
        self.matrix.read(isa, (self.map)(row), columns, wide);
    }

    fn read_bf16(&self, isa: Isa, row: usize, columns: Range<usize>, narrow: &mut [bf16]) {
        self.matrix.read_bf16(isa, (self.map)(row), columns, narrow);
    }
}
