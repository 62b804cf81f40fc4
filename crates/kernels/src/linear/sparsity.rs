//! Weights that have many zeros.

use super::weight::Weight;
use crate::error::MlxResult;
use crate::sparse::{self, SparseMatrix};

impl Weight<'_> {
    /// Packs the weight without its zeros: a floating-point matrix, or a quantized one in an affine format of 4 or 8 bits.
    ///
    /// # Errors
    /// Other formats; a matrix of 2³¹ numbers or more.
    pub fn to_sparse(self) -> MlxResult<SparseMatrix> {
        match self {
            Self::Dense(weight) => SparseMatrix::from_dense(weight),
            Self::Packed(weight) => SparseMatrix::from_quantized(weight),
            Self::Sparse(matrix) => Ok(matrix.clone()),
        }
    }

    /// Fraction of the places that [packing](Self::to_sparse) leaves out, by the first rows: zeros of a floating-point
    /// matrix, and of a quantized one the most frequent code of each group. `None` for what cannot be packed.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn sparsity(self) -> MlxResult<Option<f64>> {
        match self {
            Self::Dense(weight) => sparse::sparsity_of_numbers(weight),
            Self::Packed(weight) => sparse::sparsity_of_codes(&weight),
            Self::Sparse(matrix) => Ok(Some(matrix.sparsity())),
        }
    }

    /// Fraction of zeros from which products of one row are faster sparse than dense; `None` where they never are.
    #[must_use]
    pub fn break_even_sparsity(self) -> Option<f64> {
        match self {
            Self::Dense(weight) => sparse::break_even(weight.item_size() * 8),
            Self::Packed(weight) => sparse::break_even(weight.format.bits()),
            Self::Sparse(_) => Some(0.0),
        }
    }
}
