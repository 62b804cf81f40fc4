//! The im2col matrix, read from the pixels without being materialized: one row per output pixel, one column per kernel
//! element and channel.

use std::ops::Range;

use half::bf16;

use super::grid::{Grid, Place};
use crate::gemm::{Rows, UnpackedRows};
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};

/// Images, and the channels of them that are seen.
#[derive(Clone)]
pub(super) struct Pixels<'a, T> {
    /// `[batch, height, width, channels]`
    pub data: &'a [T],
    pub channels: usize,
    pub part: Range<usize>,
}

/// Some rows of the matrix: `[rows, taps of the grid, channels of the part]`.
pub(super) struct Patches<'a, T> {
    pixels: Pixels<'a, T>,
    grid: &'a Grid,
    rows: Vec<Place>,
    /// Taps read at once.
    span: usize,
}

impl<'a, T: Element> Patches<'a, T> {
    pub(super) fn new(pixels: &Pixels<'a, T>, grid: &'a Grid, rows: Range<usize>) -> Self {
        // Neighbours are contiguous only with all their channels.
        let span = if pixels.part.len() == pixels.channels { grid.span() } else { 1 };
        Self { pixels: pixels.clone(), grid, rows: grid.places(rows).collect(), span }
    }

    /// What `columns` of `row` consist of.
    fn segments(&self, row: usize, columns: Range<usize>) -> Segments<'_, T> {
        let (mut tap, mut skip) = ([0; 2], 0);
        if !columns.is_empty() {
            let (segment, line) = (self.span * self.pixels.part.len(), self.grid.axes[1].taps.len());
            let first = columns.start / segment * self.span;
            (tap, skip) = ([first / line, first % line], columns.start % segment);
        }
        Segments { patches: self, place: self.rows[row], tap, skip, left: columns.len() }
    }
}

/// Goes through a part of a row.
struct Segments<'a, T> {
    patches: &'a Patches<'a, T>,
    place: Place,
    tap: [usize; 2],
    /// Elements of the next run that are not asked for.
    skip: usize,
    left: usize,
}

/// Elements that follow each other in memory, between zeros for what is outside of the image.
struct Segment<'a, T> {
    before: usize,
    data: &'a [T],
    after: usize,
}

impl<'a, T> Iterator for Segments<'a, T> {
    type Item = Segment<'a, T>;

    fn next(&mut self) -> Option<Segment<'a, T>> {
        if self.left == 0 {
            return None;
        }
        let Patches { pixels, grid, span, .. } = self.patches;
        let (width, [y, x]) = (pixels.part.len(), self.tap);
        let (skip, end) = (self.skip, (span * width).min(self.skip + self.left));
        let (first, last, pixel) = grid.read(self.place, self.tap, *span);
        let inside = (first * width).clamp(skip, end)..(last * width).clamp(skip, end);
        let data = if inside.is_empty() {
            &[]
        } else {
            let start = pixel * pixels.channels + pixels.part.start + inside.start - first * width;
            &pixels.data[start..start + inside.len()]
        };
        self.left -= end - skip;
        self.skip = 0;
        self.tap = if x + span < grid.axes[1].taps.len() { [y, x + span] } else { [y + 1, 0] };
        Some(Segment { before: inside.start - skip, data, after: end - inside.end })
    }
}

impl<T: Element> Rows for Patches<'_, T> {
    fn shape(&self) -> (usize, usize) {
        (self.rows.len(), self.grid.taps() * self.pixels.part.len())
    }

    fn read(&self, isa: Isa, row: usize, columns: Range<usize>, wide: &mut [f32]) {
        widen(isa, self, row, columns, wide);
    }

    fn read_bf16(&self, isa: Isa, row: usize, columns: Range<usize>, narrow: &mut [bf16]) {
        to_bf16(isa, self, row, columns, narrow);
    }
}

/// The same matrix, read where it lies.
pub(super) struct InPlace<'a> {
    patches: Patches<'a, f32>,
    /// What is seen of a pixel outside of the image.
    outside: Vec<f32>,
}

impl<'a> InPlace<'a> {
    pub(super) fn new(pixels: &Pixels<'a, f32>, grid: &'a Grid, rows: Range<usize>) -> Self {
        Self { patches: Patches::new(pixels, grid, rows), outside: vec![0.0; pixels.part.len()] }
    }
}

impl UnpackedRows for InPlace<'_> {
    fn rows(&self) -> usize {
        self.patches.rows.len()
    }

    fn segments(&self) -> (usize, usize) {
        (self.patches.grid.taps(), self.outside.len())
    }

    fn segment(&self, row: usize, index: usize) -> &[f32] {
        let Patches { pixels, grid, rows, .. } = &self.patches;
        let line = grid.axes[1].taps.len();
        match grid.read(rows[row], [index / line, index % line], 1) {
            (0, 1, pixel) => &pixels.data[pixel * pixels.channels..][pixels.part.clone()],
            _ => &self.outside,
        }
    }
}

vectorized! {
    fn widen<T: Element>(patches: &Patches<T>, row: usize, columns: Range<usize>, wide: &mut [f32]) {
        let mut rest = wide;
        for Segment { before, data, after } in patches.segments(row, columns) {
            rest[..before].fill(0.0);
            T::widen(data, &mut rest[before..before + data.len()]);
            let (zeros, next) = rest[before + data.len()..].split_at_mut(after);
            zeros.fill(0.0);
            rest = next;
        }
    }

    fn to_bf16<T: Element>(patches: &Patches<T>, row: usize, columns: Range<usize>, narrow: &mut [bf16]) {
        let mut rest = narrow;
        for Segment { before, data, after } in patches.segments(row, columns) {
            rest[..before].fill(bf16::ZERO);
            T::to_bf16(data, &mut rest[before..before + data.len()]);
            let (zeros, next) = rest[before + data.len()..].split_at_mut(after);
            zeros.fill(bf16::ZERO);
            rest = next;
        }
    }
}
