//! Mapping from output pixels to input pixels, for a convolution and for its gradient.

use std::ops::Range;

/// One dimension of space. The `i`-th of the pixels written reads the pixels `i·step + offset` of its taps, as
/// far as there are such.
pub(super) struct Axis {
    /// Extent that is read.
    pub source: usize,
    /// Extent that is written, of which this grid has every `every`-th pixel from `first` on.
    pub target: usize,
    pub first: usize,
    pub every: usize,
    pub step: usize,
    /// By growing offset.
    pub taps: Vec<Tap>,
}

/// One element of the kernel.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    /// Its place in the kernel.
    pub kernel: usize,
    pub offset: isize,
}

impl Axis {
    /// Pixels written.
    fn count(&self) -> usize {
        self.target.saturating_sub(self.first).div_ceil(self.every)
    }

    /// Where the tap at offset 0 reads for the `i`-th pixel.
    fn base(&self, i: usize) -> isize {
        (i * self.step).cast_signed()
    }

    /// Whether the taps read pixels side by side.
    fn is_dense(&self) -> bool {
        self.taps.windows(2).all(|pair| pair[1].offset == pair[0].offset + 1)
    }
}

/// Two dimensions of space, for each image of a batch. A *row* is one of the pixels written.
pub(super) struct Grid {
    pub batch: usize,
    pub axes: [Axis; 2],
}

impl Grid {
    /// Rows of all images.
    pub(super) fn rows(&self) -> usize {
        let [y, x] = &self.axes;
        self.batch * y.count() * x.count()
    }

    /// Elements of the kernel that take part.
    pub(super) fn taps(&self) -> usize {
        self.axes.iter().map(|axis| axis.taps.len()).product()
    }

    /// Where `rows` stand.
    pub(super) fn places(&self, rows: Range<usize>) -> impl Iterator<Item = Place> {
        let [height, width] = [self.axes[0].count(), self.axes[1].count()];
        // Counted on, because divisions take longer than all else that is done for a row.
        let mut next = match rows.start {
            0 => Place { image: 0, i: 0, j: 0 },
            row => Place { image: row / (height * width), i: row / width % height, j: row % width },
        };
        rows.map(move |_| {
            let place = next;
            next.j += 1;
            if next.j == width {
                (next.i, next.j) = (next.i + 1, 0);
            }
            if next.i == height {
                (next.image, next.i) = (next.image + 1, 0);
            }
            place
        })
    }

    /// The number of a row among all pixels of the images written.
    pub(super) fn pixel(&self, Place { image, i, j }: Place) -> usize {
        let [y, x] = &self.axes;
        (image * y.target + y.first + i * y.every) * x.target + x.first + j * x.every
    }

    /// How many taps of a line follow each other in memory: 1, or all of them.
    pub(super) fn span(&self) -> usize {
        let x = &self.axes[1];
        if x.is_dense() { x.taps.len() } else { 1 }
    }

    /// What the taps `(y, x)` to `(y, x + span - 1)` read for a row: the first of them that is inside of the
    /// image, the end of those, and the pixel of the first.
    pub(super) fn read(&self, place: Place, [y, x]: [usize; 2], span: usize) -> (usize, usize, usize) {
        let [rows, columns] = &self.axes;
        let line = rows.base(place.i) + rows.taps[y].offset;
        let start = columns.base(place.j) + columns.taps[x].offset;
        let (height, width, span) =
            (rows.source.cast_signed(), columns.source.cast_signed(), span.cast_signed());
        let (first, end) = ((-start).clamp(0, span), (width - start).clamp(0, span));
        if !(0..height).contains(&line) || first >= end {
            return (0, 0, 0);
        }
        let pixel = (place.image.cast_signed() * height + line) * width + start + first;
        (first.cast_unsigned(), end.cast_unsigned(), pixel.cast_unsigned())
    }

    /// How many pixels behind the first tap each one reads, line by line.
    pub(super) fn offsets(&self) -> impl Iterator<Item = ([usize; 2], usize)> {
        let [rows, columns] = &self.axes;
        let behind = |axis: &Axis, i: usize| (axis.taps[i].offset - axis.taps[0].offset).cast_unsigned();
        let all = (0..rows.taps.len()).flat_map(|y| (0..columns.taps.len()).map(move |x| [y, x]));
        all.map(move |[y, x]| {
            let pixels = behind(rows, y) * columns.source + behind(columns, x);
            ([rows.taps[y].kernel, columns.taps[x].kernel], pixels)
        })
    }

    /// The pixel that the first tap reads for a row, if none of them is outside.
    pub(super) fn inner(&self, place: Place) -> Option<usize> {
        let first = |axis: &Axis, i: usize| {
            let (first, last) = (axis.taps.first()?, axis.taps.last()?);
            let start = axis.base(i) + first.offset;
            let end = axis.base(i) + last.offset;
            (start >= 0 && end < axis.source.cast_signed()).then_some(start.cast_unsigned())
        };
        let [rows, columns] = &self.axes;
        Some((place.image * rows.source + first(rows, place.i)?) * columns.source + first(columns, place.j)?)
    }

    /// The place in the kernel and the pixel of each tap of a row that is not outside.
    pub(super) fn elements(&self, place: Place) -> impl Iterator<Item = ([usize; 2], usize)> {
        let [rows, columns] = &self.axes;
        let all = (0..rows.taps.len()).flat_map(|y| (0..columns.taps.len()).map(move |x| [y, x]));
        all.filter_map(move |tap @ [y, x]| match self.read(place, tap, 1) {
            (0, 1, pixel) => Some(([rows.taps[y].kernel, columns.taps[x].kernel], pixel)),
            _ => None,
        })
    }
}

/// One row: the image and the numbers along both axes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    image: usize,
    i: usize,
    j: usize,
}
