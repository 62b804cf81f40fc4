//! Quantization formats and the arrays of a quantized matrix.
//!
//! A weight is `scale·(level − zero) + bias`, with one scale and bias per group of consecutive columns. Levels are small
//! non-negative integers: the codes for affine formats, and twice the E2M1 value plus 12 for mxfp4 and nvfp4. Numbers of
//! mxfp8 are looked up.

use std::ffi::CStr;
use std::ops::Range;

use half::{bf16, f16};
use mlx_rs::Dtype;
use mlx_rs::error::Exception;

use super::widen::{half_e4m3, half_power, widen, widen_e4m3, widen_f16, widen_powers};
use crate::error::MlxResult;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, prefetch, vectorized};
use crate::runtime::operand::Slice;
use crate::sparse::SparseCodes;

/// Mapping from codes to values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// `scale·code + bias`, in the dtype of the scales.
    Affine,
    /// 4-bit floating-point values (E2M1) times a power of two, as in the
    /// [OCP microscaling formats](https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf).
    Mxfp4,
    /// 8-bit floating-point values (E4M3) times a power of two, as in the microscaling formats.
    Mxfp8,
    /// 4-bit floating-point values (E2M1) times an 8-bit one (E4M3), as NVIDIA's
    /// [NVFP4](https://developer.nvidia.com/blog/introducing-nvfp4-for-efficient-and-accurate-low-precision-inference/).
    Nvfp4,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Affine, Self::Mxfp4, Self::Mxfp8, Self::Nvfp4];

    /// As MLX spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.c_name().to_str().unwrap_or_default()
    }

    pub(super) fn c_name(self) -> &'static CStr {
        match self {
            Self::Affine => c"affine",
            Self::Mxfp4 => c"mxfp4",
            Self::Mxfp8 => c"mxfp8",
            Self::Nvfp4 => c"nvfp4",
        }
    }

    /// The format of a floating-point mode, which has bits and groups of its own.
    #[must_use]
    pub fn float_format(self) -> Option<Format> {
        match self {
            Self::Affine => None,
            Self::Mxfp4 => Some(Format::MXFP4),
            Self::Mxfp8 => Some(Format::MXFP8),
            Self::Nvfp4 => Some(Format::NVFP4),
        }
    }
}

/// Quantization format: mode, bits and group size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    mode: Mode,
    bits: usize,
    group_size: usize,
}

/// Columns that every group size and every packing divides: `bits` words of a row.
pub(super) const BLOCK: usize = 32;

/// The level of the number zero in mxfp4.
pub(super) const MXFP4_ZERO: u8 = 12;

/// Twice the number in E2M1 that `code` stands for, plus [`MXFP4_ZERO`]. Branch-free: it vectorises.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) fn mxfp4_level(code: u8) -> u8 {
    // 0, 1, 2, 3, 4, 6, 8, 12
    let magnitude = code & 7;
    let magnitude = magnitude + magnitude.saturating_sub(4) + if magnitude == 7 { 2 } else { 0 };
    if code & 8 == 0 { MXFP4_ZERO + magnitude } else { MXFP4_ZERO - magnitude }
}

impl Format {
    /// MXFP4: 4 bits, with a power-of-two scale per group of 32.
    pub const MXFP4: Self = Self { mode: Mode::Mxfp4, bits: 4, group_size: 32 };
    /// MXFP8: 8 bits, with a power-of-two scale per group of 32.
    pub const MXFP8: Self = Self { mode: Mode::Mxfp8, bits: 8, group_size: 32 };
    /// NVFP4: 4 bits, with an 8-bit floating-point scale per group of 16.
    pub const NVFP4: Self = Self { mode: Mode::Nvfp4, bits: 4, group_size: 16 };

    /// Affine format with `bits` (2, 3, 4, 5, 6 or 8) per weight and a scale and bias per `group_size` (32, 64 or 128)
    /// columns.
    ///
    /// # Errors
    /// Unsupported values.
    pub fn affine(bits: usize, group_size: usize) -> MlxResult<Self> {
        if !matches!(bits, 2..=6 | 8) || !matches!(group_size, 32 | 64 | 128) {
            return Err(Exception::custom(format!(
                "affine weights have 2, 3, 4, 5, 6 or 8 bits and groups of 32, 64 or 128, \
                 not {bits} bits and groups of {group_size}"
            )));
        }
        Ok(Self { mode: Mode::Affine, bits, group_size })
    }

    /// Mapping from codes to values.
    #[must_use]
    pub fn mode(self) -> Mode {
        self.mode
    }

    /// Bits per code.
    #[must_use]
    pub fn bits(self) -> usize {
        self.bits
    }

    /// Number of consecutive columns that share a scale.
    #[must_use]
    pub fn group_size(self) -> usize {
        self.group_size
    }

    /// Rows are a multiple of so many columns: whole groups and whole words.
    #[must_use]
    pub fn row_multiple(self) -> usize {
        self.group_size.max(BLOCK)
    }

    /// Whether codes are numbers in E2M1.
    pub(super) fn is_e2m1(self) -> bool {
        matches!(self.mode, Mode::Mxfp4 | Mode::Nvfp4)
    }

    /// Whether there are products that read the packed codes; other formats are unpacked for a blocked one.
    pub(super) fn has_packed_product(self) -> bool {
        matches!(self.mode, Mode::Affine | Mode::Mxfp4)
    }

    /// The level of each code, for formats of 4 bits.
    pub(super) fn levels(self) -> [u8; 16] {
        std::array::from_fn(|code| if self.is_e2m1() { mxfp4_level(code as u8) } else { code as u8 })
    }

    /// Checks shapes and dtypes of a packed matrix.
    ///
    /// | array | shape | dtype |
    /// |---|---|---|
    /// | `weight` | `[rows, columns·bits/32]` | uint32 |
    /// | `scales` | `[rows, columns/group_size]` | f32, f16 or bf16; uint8 in floating-point formats |
    /// | `biases` | as `scales` | as `scales`; absent in floating-point formats |
    ///
    /// # Errors
    /// What does not fit, with the shapes and dtypes found; otherwise `(rows, columns)`.
    pub(super) fn check(
        self,
        weight: (&[i32], Dtype),
        scales: (&[i32], Dtype),
        biases: Option<(&[i32], Dtype)>,
    ) -> MlxResult<(usize, usize)> {
        let mismatch = |what: &str| {
            Err(Exception::custom(format!(
                "quantized weights: {what} (weight {weight:?}, scales {scales:?}, biases {biases:?}, {self:?})"
            )))
        };
        let (&[rows, words], &[scale_rows, groups]) = (weight.0, scales.0) else {
            return mismatch("weight and scales must have two dimensions");
        };
        if weight.1 != Dtype::Uint32 {
            return mismatch("codes must be packed into uint32");
        }
        let float = |dtype| matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
        match (self.mode, biases) {
            (Mode::Affine, Some(biases)) if float(scales.1) && biases == scales => {}
            (Mode::Affine, _) => {
                return mismatch("affine needs floating-point scales and biases of one shape and dtype");
            }
            (_, None) if scales.1 == Dtype::Uint8 => {}
            _ => return mismatch("floating-point formats need uint8 scales and no biases"),
        }
        let (words, groups) = (words as usize, groups as usize);
        let columns = groups * self.group_size;
        if rows != scale_rows || words * 32 != columns * self.bits {
            return mismatch("shapes do not fit each other");
        }
        if !columns.is_multiple_of(BLOCK) {
            return mismatch("rows must be a multiple of 32 weights");
        }
        Ok((rows as usize, columns))
    }
}

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
        let of = |numbers| GroupNumbers::of(format.mode, numbers);
        let (scales, biases) = (of(scales), biases.map(of));
        let columns = scales.len() / rows.max(1) * format.group_size;
        assert!(
            words.len() * 32 == rows * columns * format.bits
                && scales.len() * format.group_size == rows * columns
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
        let [scales, biases] = [scales, biases].map(|numbers| GroupNumbers::of(format.mode, numbers));
        assert!(
            scales.len() * format.group_size == rows * columns && biases.len() == scales.len(),
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
        if self.is_sparse() { 8 } else { self.format.bits }
    }

    /// Groups of a row.
    pub(super) fn groups(&self) -> usize {
        self.columns / self.format.group_size
    }

    /// Packed codes of a row.
    pub(super) fn row_words(&self, row: usize) -> &'a [u32] {
        self.words(row..row + 1)
    }

    /// Packed codes of some rows.
    pub(super) fn words(&self, rows: Range<usize>) -> &'a [u32] {
        let Codes::Packed(words) = self.codes else { unreachable!("sparse codes are read as levels") };
        let len = self.columns / BLOCK * self.format.bits;
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
            Codes::Packed(_) => self.columns * self.format.bits / 8,
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
