//! Quantization formats.
//!
//! A weight is `scale·(level − zero) + bias`, with one scale and bias per group of consecutive columns. Levels are small
//! non-negative integers: the codes for affine formats, and twice the E2M1 value plus 12 for mxfp4 and nvfp4. Numbers of
//! mxfp8 are looked up.

use std::ffi::CStr;

use mlx_rs::Dtype;
use mlx_rs::error::Exception;

use crate::error::MlxResult;

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
