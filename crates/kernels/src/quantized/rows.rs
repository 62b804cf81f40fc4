//! The arrays of a quantized matrix.

use std::ops::Range;

use half::{bf16, f16};

use super::format::{BLOCK, Format, MXFP4_ZERO, Mode};
use super::widen::{half_e4m3, half_power, widen, widen_e4m3, widen_f16, widen_powers};
use crate::bitmask::SparseCodes;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, prefetch, vectorized};
use crate::runtime::operand::Slice;

/// Numbers of the groups in one of the formats MLX keeps them in.
#[derive(Debug, Clone, Copy)]
pub(super) enum GroupNumbers<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    /// Powers of two, of which the exponent plus 127 is stored.
    E8m0(&'a [u8]),
    /// 8-bit floating-point numbers.
    E4m3(&'a [u8]),
}

impl<'a> GroupNumbers<'a> {
    fn of(mode: Mode, data: Slice<'a>) -> Self {
        match data {
            Slice::F32(x) => Self::F32(x),
            Slice::F16(x) => Self::F16(x),
            Slice::Bf16(x) => Self::Bf16(x),
            Slice::U8(x) if mode == Mode::Nvfp4 => Self::E4m3(x),
            Slice::U8(x) => Self::E8m0(x),
            _ => unreachable!("kernels check dtypes before they build a node"),
        }
    }

    fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(x) => Self::F32(&x[range]),
            Self::F16(x) => Self::F16(&x[range]),
            Self::Bf16(x) => Self::Bf16(&x[range]),
            Self::E8m0(x) => Self::E8m0(&x[range]),
            Self::E4m3(x) => Self::E4m3(&x[range]),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F16(x) => x.len(),
            Self::Bf16(x) => x.len(),
            Self::E8m0(x) | Self::E4m3(x) => x.len(),
        }
    }
}

/// The codes of a matrix.
#[derive(Debug, Clone, Copy)]
pub(super) enum Codes<'a> {
    /// All of them, packed from the least significant bit of words.
    Packed(&'a [u32]),
    /// Without the most frequent ones.
    Sparse(SparseCodes<'a>),
}

/// A packed matrix, row-major, one row per output of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuantizedRows<'a> {
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) columns: usize,
    codes: Codes<'a>,
    scales: GroupNumbers<'a>,
    biases: Option<GroupNumbers<'a>>,
}

impl<'a> QuantizedRows<'a> {
    /// The matrix of `rows` rows behind checked arrays.
    ///
    /// # Panics
    /// If the arrays have not the lengths that [`Format::check`] asks for: nothing is read out of bounds.
    pub(crate) fn new(
        format: Format,
        rows: usize,
        weight: Slice<'a>,
        scales: Slice<'a>,
        biases: Option<Slice<'a>>,
    ) -> Self {
        let Slice::U32(words) = weight else {
            unreachable!("kernels check dtypes before they build a node");
        };
        let of = |numbers| GroupNumbers::of(format.mode(), numbers);
        let (scales, biases) = (of(scales), biases.map(of));
        let columns = scales.len() / rows.max(1) * format.group_size();
        assert!(
            words.len() * 32 == rows * columns * format.bits()
                && scales.len() * format.group_size() == rows * columns
                && biases.is_none_or(|biases| biases.len() == scales.len()),
            "quantized weights: {} words and {} scales are not {rows} rows of {format:?}",
            words.len(),
            scales.len()
        );
        Self { format, rows, columns, codes: Codes::Packed(words), scales, biases }
    }

    /// The matrix of `shape` whose codes are sparse.
    ///
    /// # Panics
    /// If there is not one scale and bias for each group.
    pub(crate) fn sparse(
        format: Format,
        (rows, columns): (usize, usize),
        codes: SparseCodes<'a>,
        scales: Slice<'a>,
        biases: Slice<'a>,
    ) -> Self {
        let [scales, biases] = [scales, biases].map(|numbers| GroupNumbers::of(format.mode(), numbers));
        assert!(
            scales.len() * format.group_size() == rows * columns && biases.len() == scales.len(),
            "quantized weights: {} scales of {rows} rows of {columns} in {format:?}",
            scales.len()
        );
        Self { format, rows, columns, codes: Codes::Sparse(codes), scales, biases: Some(biases) }
    }

    pub(super) fn codes(&self) -> Codes<'a> {
        self.codes
    }

    /// Whether codes have to be brought to their places first.
    pub(super) fn is_sparse(&self) -> bool {
        matches!(self.codes, Codes::Sparse(_))
    }

    /// Bits of a code as kernels read it.
    pub(super) fn code_bits(&self) -> usize {
        if self.is_sparse() { 8 } else { self.format.bits() }
    }

    /// Groups of a row.
    pub(super) fn groups(&self) -> usize {
        self.columns / self.format.group_size()
    }

    /// Packed codes of a row.
    pub(super) fn row_words(&self, row: usize) -> &'a [u32] {
        self.words(row..row + 1)
    }

    /// Packed codes of some rows.
    pub(super) fn words(&self, rows: Range<usize>) -> &'a [u32] {
        let Codes::Packed(words) = self.codes else { unreachable!("sparse codes are read as levels") };
        let len = self.columns / BLOCK * self.format.bits();
        &words[rows.start * len..rows.end * len]
    }

    /// Bytes of a row, scales and biases included.
    pub(super) fn row_bytes(&self) -> usize {
        let number = match self.scales {
            GroupNumbers::F32(_) => 4,
            GroupNumbers::F16(_) | GroupNumbers::Bf16(_) => 2,
            GroupNumbers::E8m0(_) | GroupNumbers::E4m3(_) => 1,
        };
        let numbers = if self.biases.is_some() { 2 } else { 1 };
        let codes = match self.codes {
            Codes::Packed(_) => self.columns * self.format.bits() / 8,
            Codes::Sparse(codes) => codes.bytes().div_ceil(self.rows.max(1)),
        };
        codes + self.groups() * numbers * number
    }

    /// Scales and biases of some rows.
    pub(super) fn stored_groups(&self, rows: Range<usize>) -> (GroupNumbers<'a>, Option<GroupNumbers<'a>>) {
        let range = rows.start * self.groups()..rows.end * self.groups();
        (self.scales.part(range.clone()), self.biases.map(|biases| biases.part(range)))
    }

    /// Asks for the scales and biases of some rows, which are read soon.
    pub(super) fn prefetch_groups(&self, rows: Range<usize>) {
        let range = rows.start * self.groups()..rows.end * self.groups();
        for numbers in [Some(&self.scales), self.biases.as_ref()].into_iter().flatten() {
            match numbers {
                GroupNumbers::F32(x) => prefetch(&x[range.clone()]),
                GroupNumbers::F16(x) => prefetch(&x[range.clone()]),
                GroupNumbers::Bf16(x) => prefetch(&x[range.clone()]),
                GroupNumbers::E8m0(x) | GroupNumbers::E4m3(x) => prefetch(&x[range.clone()]),
            }
        }
    }

    /// Scale, bias and zero of the group `index`, counted over all rows.
    pub(super) fn group(&self, index: usize) -> Group {
        let number = |numbers: &GroupNumbers| match numbers {
            GroupNumbers::F32(x) => x[index],
            GroupNumbers::F16(x) => x[index].to_f32(),
            GroupNumbers::Bf16(x) => Element::to_f32(x[index]),
            GroupNumbers::E8m0(x) => half_power(x[index]),
            GroupNumbers::E4m3(x) => half_e4m3(x[index]),
        };
        let zero = if self.format.is_e2m1() { MXFP4_ZERO } else { 0 };
        Group { scale: number(&self.scales), bias: self.biases.as_ref().map_or(0.0, number), zero }
    }

    /// Writes scales and biases of the groups `range`, counted over all rows, such that a weight is
    /// `scale·level + bias`.
    pub(super) fn read_groups(&self, isa: Isa, range: Range<usize>, scales: &mut [f32], biases: &mut [f32]) {
        let read = |numbers: &GroupNumbers, wide: &mut [f32]| match numbers {
            GroupNumbers::F32(x) => wide.copy_from_slice(&x[range.clone()]),
            GroupNumbers::F16(x) => widen_f16(isa, &x[range.clone()], wide),
            GroupNumbers::Bf16(x) => widen(isa, &x[range.clone()], wide),
            GroupNumbers::E8m0(x) => widen_powers(isa, &x[range.clone()], wide),
            GroupNumbers::E4m3(x) => widen_e4m3(isa, &x[range.clone()], wide),
        };
        read(&self.scales, scales);
        match &self.biases {
            Some(numbers) => read(numbers, biases),
            None => shift(isa, scales, biases),
        }
    }
}

/// A weight of the group is `scale·(level − zero) + bias`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub scale: f32,
    pub bias: f32,
    pub zero: u8,
}

vectorized! {
    fn shift(scales: &[f32], biases: &mut [f32]) {
        for (bias, scale) in biases.iter_mut().zip(scales) {
            *bias = -f32::from(MXFP4_ZERO) * scale;
        }
    }
}
