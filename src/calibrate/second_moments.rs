//! Second moments `Σ x·xᵀ` of the inputs of a layer: the Hessian of its squared output error.

use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, MatMut, MatRef, Par};
use mlx_rs::{Array, Dtype};

use crate::{Result, kernels, threads};

/// Sum of `x·xᵀ` over input vectors of length `n`.
#[derive(Debug, Clone)]
pub struct SecondMoments {
    n: usize,
    tokens: usize,
    /// Column-major `[n, n]`; only the lower triangle counts.
    sum: Vec<f32>,
}

impl SecondMoments {
    /// The sum over no vectors.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self { n, tokens: 0, sum: vec![0.0; n * n] }
    }

    /// Adds the rows of `x`, `[tokens, n]`.
    ///
    /// # Errors
    /// Errors from MLX.
    ///
    /// # Panics
    /// If `x` has rows of another length.
    pub fn add(&mut self, x: &Array) -> Result<()> {
        threads::start()?;
        let n = self.n;
        let x = x.as_dtype(Dtype::Float32)?.reshape(&[-1, x.dim(-1)])?.contiguous()?;
        kernels::eval([&x])?;
        let (tokens, values) = (x.dim(0) as usize, x.as_slice::<f32>());
        assert_eq!(values.len(), tokens * n, "inputs of another length");
        let x = MatRef::from_column_major_slice(values, n, tokens);
        matmul(
            MatMut::from_column_major_slice_mut(&mut self.sum, n, n),
            BlockStructure::TriangularLower,
            Accum::Add,
            x,
            BlockStructure::Rectangular,
            x.transpose(),
            BlockStructure::Rectangular,
            1.0,
            Par::rayon(0),
        );
        self.tokens += tokens;
        Ok(())
    }

    /// Length of the vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are no vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Number of vectors.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Mean of `x[i]·x[j]`.
    #[must_use]
    pub fn mean(&self, i: usize, j: usize) -> f32 {
        self.sum[i.min(j) * self.n + i.max(j)] / self.tokens.max(1) as f32
    }

    /// Mean of `x[i]²` for each `i`.
    #[must_use]
    pub fn mean_squares(&self) -> Vec<f32> {
        (0..self.n).map(|i| self.mean(i, i)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_counts_once() {
        let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, -1.0, 0.5, 4.0], &[2, 3]);
        let mut moments = SecondMoments::new(3);
        moments.add(&x).unwrap();
        moments.add(&x.as_dtype(Dtype::Bfloat16).unwrap().reshape(&[2, 1, 3]).unwrap()).unwrap();
        assert_eq!((moments.tokens(), moments.len()), (4, 3));
        // (1·3 + (−1)·4) / 2
        assert!((moments.mean(0, 2) + 0.5).abs() < 1e-6 && (moments.mean(2, 0) + 0.5).abs() < 1e-6);
        assert_eq!(moments.mean_squares(), [1.0, 2.125, 12.5]);
    }
}
