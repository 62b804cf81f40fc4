//! Which pixels are read for which pixel: the same description for a convolution and for its gradient.

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

    /// The number of `row` among all pixels of the images written.
    pub(super) fn pixel(&self, row: usize) -> usize {
        let ([y, x], [image, i, j]) = (&self.axes, self.split(row));
        (image * y.target + y.first + i * y.every) * x.target + x.first + j * x.every
    }

    /// What `row` reads.
    pub(super) fn window(&self, row: usize) -> Window<'_> {
        let ([y, x], [image, i, j]) = (&self.axes, self.split(row));
        Window { grid: self, image, y: y.base(i), x: x.base(j) }
    }

    /// How many taps of a line follow each other in memory: 1, or all of them.
    pub(super) fn span(&self) -> usize {
        let x = &self.axes[1];
        if x.is_dense() { x.taps.len() } else { 1 }
    }

    fn split(&self, row: usize) -> [usize; 3] {
        let [height, width] = [self.axes[0].count(), self.axes[1].count()];
        [row / (height * width), row / width % height, row % width]
    }
}

/// The taps of one row.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    grid: &'a Grid,
    image: usize,
    y: isize,
    x: isize,
}

impl Window<'_> {
    /// What the taps `(y, x)` to `(y, x + span - 1)` read: the first of them that is inside of the image, the
    /// end of those, and the pixel of the first.
    pub(super) fn read(&self, y: usize, x: usize, span: usize) -> (usize, usize, usize) {
        let [rows, columns] = &self.grid.axes;
        let line = self.y + rows.taps[y].offset;
        let start = self.x + columns.taps[x].offset;
        let (height, width, span) =
            (rows.source.cast_signed(), columns.source.cast_signed(), span.cast_signed());
        let (first, end) = ((-start).clamp(0, span), (width - start).clamp(0, span));
        if !(0..height).contains(&line) || first >= end {
            return (0, 0, 0);
        }
        let pixel = (self.image.cast_signed() * height + line) * width + start + first;
        (first.cast_unsigned(), end.cast_unsigned(), pixel.cast_unsigned())
    }

    /// The place in the kernel and the pixel of each tap that is not outside.
    pub(super) fn taps(&self) -> impl Iterator<Item = ([usize; 2], usize)> {
        let [rows, columns] = &self.grid.axes;
        let all = (0..rows.taps.len()).flat_map(|y| (0..columns.taps.len()).map(move |x| (y, x)));
        all.filter_map(|(y, x)| match self.read(y, x, 1) {
            (0, 1, pixel) => Some(([rows.taps[y].kernel, columns.taps[x].kernel], pixel)),
            _ => None,
        })
    }
}
