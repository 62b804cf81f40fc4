//! Matrices with many zeros, and products with them: a bit per place and the other numbers one after the other.
//!
//! | section | contents |
//! |---|---|
//! | mask | `[out, in/32]`, uint32: bit `i` of a word tells whether column `i` of its 32 is stored |
//! | offsets | `[out + 1]`, uint32: where the numbers of each row begin |
//! | fill | `[out, in/group_size]`, uint8, of quantized matrices: the code of the places that are not stored |
//! | numbers | in the dtype of the matrix; codes of 8 bits as bytes, of 4 bits as halves of bytes |
//!
//! All sections are parts of one array. A matrix of which half is stored takes 9/16 of the memory in 16 bits, about 2/3 in
//! 8-bit codes and 4/5 in 4-bit codes. Products of few rows (decoding) read just that; others unpack the matrix into the
//! panels of a blocked product. Nothing is lost: a matrix that is packed and unpacked is the same.

use half::{bf16, f16};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::bitmask::{Layout, Storage};
use crate::error::MlxResult;
use crate::quantized::{Format, PackedWeight};

mod gemv;
#[cfg(target_arch = "x86_64")]
mod gemv_avx512;
mod pack;
mod rows;
mod sparsity;

pub(super) use gemv::multiply;
pub(super) use rows::SparseRows;
pub(crate) use rows::with_sparse_rows;
pub(super) use sparsity::{break_even, sparsity_of_codes, sparsity_of_numbers};

/// Rows of activations that share one pass over the weights.
const MAX_ROWS: usize = 8;

/// A packed matrix, `[out, in]`. Its contents cannot be changed: kernels rely on what [`pack`](Self::pack) wrote.
#[derive(Debug, Clone)]
pub struct SparseMatrix {
    /// All sections, uint32.
    data: Array,
    layout: Layout,
    /// Scales, biases and format of a quantized matrix.
    groups: Option<(Array, Array, Format)>,
}

/// What a [`SparseMatrix`] was packed from.
#[derive(Debug, Clone)]
pub enum Unpacked {
    /// A floating-point matrix.
    Dense(Array),
    /// Codes, scales and biases of a quantized matrix.
    Quantized(Array, Array, Array, Format),
}

impl SparseMatrix {
    /// Packs a floating-point matrix.
    ///
    /// # Errors
    /// Another shape or dtype; a matrix of 2³¹ numbers or more.
    pub fn from_dense(weight: &Array) -> MlxResult<Self> {
        let (data, layout) = match weight.dtype() {
            Dtype::Float32 => pack::dense::<f32>(weight, Storage::F32),
            Dtype::Float16 => pack::dense::<f16>(weight, Storage::F16),
            Dtype::Bfloat16 => pack::dense::<bf16>(weight, Storage::Bf16),
            other => Err(Exception::custom(format!("a sparse matrix of {other:?}"))),
        }?;
        Ok(Self { data, layout, groups: None })
    }

    /// Packs a quantized matrix in an affine format of 4 or 8 bits.
    ///
    /// # Errors
    /// Other formats; a matrix of 2³¹ numbers or more.
    pub fn from_quantized(weight: PackedWeight) -> MlxResult<Self> {
        let (data, layout) = pack::codes(&weight)?;
        let biases = weight.biases.ok_or_else(|| Exception::custom("affine weights have biases"))?;
        Ok(Self { data, layout, groups: Some((weight.scales.clone(), biases.clone(), weight.format)) })
    }

    /// Returns what was packed.
    #[must_use]
    pub fn unpack(&self) -> Unpacked {
        let view = self.layout.view(self.data.as_slice::<u32>());
        let shape = [self.layout.rows as i32, self.layout.columns as i32];
        match (self.layout.storage, &self.groups) {
            (Storage::F32, _) => Unpacked::Dense(Array::from_slice(&pack::unpack::<f32>(view), &shape)),
            (Storage::F16, _) => Unpacked::Dense(Array::from_slice(&pack::unpack::<f16>(view), &shape)),
            (Storage::Bf16, _) => Unpacked::Dense(Array::from_slice(&pack::unpack::<bf16>(view), &shape)),
            (Storage::Codes { .. }, Some((scales, biases, format))) => {
                let codes = pack::unpack_codes(view, *format);
                Unpacked::Quantized(codes, scales.clone(), biases.clone(), *format)
            }
            (Storage::Codes { .. }, None) => unreachable!("codes come with scales"),
        }
    }

    /// Returns the matrix as floating-point numbers of `dtype`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn to_dense(&self, dtype: Dtype) -> MlxResult<Array> {
        match self.unpack() {
            Unpacked::Dense(weight) => weight.as_dtype(dtype),
            Unpacked::Quantized(codes, scales, biases, format) => {
                let weight = PackedWeight { codes: &codes, scales: &scales, biases: Some(&biases), format };
                crate::quantized::dequantize(weight, dtype)
            }
        }
    }

    /// `(out, in)`
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        (self.layout.rows, self.layout.columns)
    }

    /// Quantization format; `None` for floating-point numbers.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.groups.as_ref().map(|(_, _, format)| *format)
    }

    /// Dtype of the numbers, or of the scales of codes.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        match (self.layout.storage, &self.groups) {
            (Storage::F32, _) => Dtype::Float32,
            (Storage::F16, _) => Dtype::Float16,
            (Storage::Bf16, _) => Dtype::Bfloat16,
            (Storage::Codes { .. }, groups) => {
                groups.as_ref().map_or(Dtype::Float32, |(scales, ..)| scales.dtype())
            }
        }
    }

    /// Fraction of the places that are not stored.
    #[must_use]
    pub fn sparsity(&self) -> f64 {
        let places = self.layout.rows * self.layout.columns;
        (places - self.layout.nonzeros) as f64 / places.max(1) as f64
    }

    /// Number of places that are stored.
    #[must_use]
    pub fn nonzeros(&self) -> usize {
        self.layout.nonzeros
    }

    /// Bytes of the packed matrix, without scales and biases.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.data.nbytes()
    }

    /// Bytes of the matrix before it was packed, without scales and biases.
    #[must_use]
    pub fn dense_nbytes(&self) -> usize {
        self.layout.rows * self.layout.columns * self.layout.storage.bits() / 8
    }

    /// The packed array: one that a model lists among its parameters.
    #[must_use]
    pub fn data(&self) -> &Array {
        &self.data
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// The arrays in the order in which a node takes them.
    pub fn operands(&self) -> impl Iterator<Item = &Array> {
        let groups = self.groups.iter().flat_map(|(scales, biases, _)| [scales, biases]);
        std::iter::once(&self.data).chain(groups)
    }
}

#[cfg(test)]
mod tests;
