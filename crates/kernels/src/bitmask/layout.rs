//! Where the sections of a packed matrix are.

use std::ops::Range;

/// Columns of a word of the mask.
pub(crate) const WORD: usize = 32;

/// Bytes that can be read behind the last number: vectors are loaded whole.
pub(crate) const PADDING: usize = 64;

/// Words of a cache line, on which sections begin.
const LINE: usize = 16;

/// What the numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    F32,
    F16,
    Bf16,
    /// Of 4 or 8 bits, in groups of so many columns.
    Codes {
        bits: usize,
        group_size: usize,
    },
}

impl Storage {
    /// Bits of a number.
    pub(crate) fn bits(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::Codes { bits, .. } => bits,
        }
    }

    /// Whether two numbers share a byte.
    pub(crate) fn is_nibbles(self) -> bool {
        self.bits() == 4
    }

    /// Columns that share a fill.
    fn group(self) -> Option<usize> {
        match self {
            Self::Codes { group_size, .. } => Some(group_size),
            Self::F32 | Self::F16 | Self::Bf16 => None,
        }
    }
}

/// Sizes of a packed matrix, from which the places of its sections follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) storage: Storage,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Numbers that are stored.
    pub(crate) nonzeros: usize,
    /// Bytes of the numbers; rows of halves of bytes begin with a whole one.
    pub(crate) bytes: usize,
}

/// The sections of a packed matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) layout: Layout,
    pub(crate) mask: &'a [u32],
    /// In numbers; in bytes where two numbers share one.
    pub(crate) offsets: &'a [u32],
    pub(crate) fill: &'a [u8],
    /// With [`PADDING`] behind them.
    pub(crate) numbers: &'a [u8],
}

impl Layout {
    pub(crate) fn shape(self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Words of the mask of a row.
    pub(crate) fn words(self) -> usize {
        self.columns.div_ceil(WORD)
    }

    /// Groups of a row; 0 without any.
    pub(crate) fn groups(self) -> usize {
        self.storage.group().map_or(0, |group| self.columns / group)
    }

    /// Words of all sections.
    pub(crate) fn len(self) -> usize {
        self.sections()[3].end
    }

    /// Places of mask, offsets, fill and numbers, in words.
    pub(crate) fn sections(self) -> [Range<usize>; 4] {
        let lens = [
            self.rows * self.words(),
            self.rows + 1,
            (self.rows * self.groups()).div_ceil(4),
            (self.bytes + PADDING).div_ceil(4),
        ];
        let mut end = 0_usize;
        lens.map(|len| {
            let start = end.next_multiple_of(LINE);
            end = start + len;
            start..end
        })
    }

    /// # Panics
    /// If `data` has not as many words as the sections.
    pub(crate) fn view(self, data: &[u32]) -> View<'_> {
        let [mask, offsets, fill, numbers] = self.sections();
        assert_eq!(data.len(), self.len(), "sparse: words");
        View {
            layout: self,
            mask: &data[mask],
            offsets: &data[offsets],
            fill: &bytemuck::cast_slice(&data[fill])[..self.rows * self.groups()],
            numbers: bytemuck::cast_slice(&data[numbers]),
        }
    }
}

impl<'a> View<'a> {
    /// Mask of a row.
    pub(crate) fn row_mask(&self, row: usize) -> &'a [u32] {
        let words = self.layout.words();
        &self.mask[row * words..(row + 1) * words]
    }
}

/// Number of places that `mask` has.
pub(crate) fn count(mask: &[u32]) -> usize {
    mask.iter().map(|word| word.count_ones() as usize).sum()
}
