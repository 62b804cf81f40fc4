//! Second moments `Σ x·xᵀ` of the inputs of a layer: the Hessian of its squared output error. And their magnitudes
//! `Σ |x|`.

use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, MatMut, MatRef, Par};
use mlx_rs::{Array, Dtype};
use rayon::prelude::*;

use crate::{Result, kernels, threads};

/// Sums of `x·xᵀ` and `|x|` over input vectors of length `n`.
#[derive(Debug, Clone)]
pub struct SecondMoments {
    n: usize,
    tokens: usize,
    /// Column-major `[n, n]`; only the lower triangle counts.
    sum: Vec<f32>,
    /// `[n]`
    magnitudes: Vec<f32>,
}

impl SecondMoments {
    /// The sum over no vectors.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self { n, tokens: 0, sum: vec![0.0; n * n], magnitudes: vec![0.0; n] }
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
        for row in values.chunks_exact(n) {
            self.magnitudes.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.abs());
        }
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

    /// Means of `x·xᵀ`, `[n, n]`.
    #[must_use]
    pub fn means(&self) -> Vec<f32> {
        (0..self.n * self.n).into_par_iter().map(|at| self.mean(at / self.n, at % self.n)).collect()
    }

    /// Mean of `x[i]²` for each `i`.
    #[must_use]
    pub fn mean_squares(&self) -> Vec<f32> {
        (0..self.n).map(|i| self.mean(i, i)).collect()
    }

    /// Sum of `|x[i]|` for each `i`.
    #[must_use]
    pub fn magnitudes(&self) -> &[f32] {
        &self.magnitudes
    }

    /// Sum of the squares of `weight·x`, with `weight` `[rows, n]`; on one thread.
    ///
    /// # Panics
    /// If `weight` has rows of another length.
    #[must_use]
    pub fn squared_outputs(&self, weight: &[f32]) -> f64 {
        let (n, rows) = (self.n, weight.len() / self.n);
        assert_eq!(weight.len(), rows * n, "rows of another length");
        let mut products = vec![0.0_f32; weight.len()];
        matmul(
            MatMut::from_column_major_slice_mut(&mut products, n, rows),
            BlockStructure::Rectangular,
            Accum::Replace,
            MatRef::from_column_major_slice(&self.sum, n, n),
            BlockStructure::TriangularLower,
            MatRef::from_column_major_slice(weight, n, rows),
            BlockStructure::Rectangular,
            1.0,
            Par::Seq,
        );
        // The lower triangle counts twice, but for the diagonal.
        let diagonal: Vec<f32> = (0..n).map(|i| self.sum[i * n + i]).collect();
        let row = |(product, weight): (&[f32], &[f32])| {
            let terms = product.iter().zip(weight).zip(&diagonal);
            terms.map(|((p, w), d)| f64::from(*w) * f64::from(2.0 * p - d * w)).sum::<f64>()
        };
        products.chunks_exact(n).zip(weight.chunks_exact(n)).map(row).sum()
    }

    /// Those of the vectors divided by `scales`, element by element.
    pub fn divide(&mut self, scales: &[f32]) {
        for (j, column) in self.sum.chunks_exact_mut(self.n).enumerate() {
            column.iter_mut().zip(scales).for_each(|(x, scale)| *x /= scale * scales[j]);
        }
        self.magnitudes.iter_mut().zip(scales).for_each(|(x, scale)| *x /= scale.abs());
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
        assert_eq!(moments.magnitudes(), [4.0, 5.0, 14.0]);
    }

    #[test]
    fn outputs_and_divided_inputs() {
        let x = Array::from_slice(&[1.0_f32, 2.0, 3.0, -1.0, 0.5, 4.0], &[2, 3]);
        let mut moments = SecondMoments::new(3);
        moments.add(&x).unwrap();
        // Outputs [1 − 4 + 1.5, 2 + 3] and [−1 − 1 + 2, 0.5 + 4].
        let weight = [1.0, -2.0, 0.5, 0.0, 1.0, 1.0];
        let expected = 1.5 * 1.5 + 25.0 + 4.5 * 4.5;
        assert!((moments.squared_outputs(&weight) - expected).abs() < 1e-5);
        let scales = [2.0, -0.5, 4.0];
        moments.divide(&scales);
        let scaled: Vec<f32> = weight.iter().zip(scales.iter().cycle()).map(|(w, s)| w * s).collect();
        assert!((moments.squared_outputs(&scaled) - expected).abs() < 1e-5);
        assert_eq!(moments.magnitudes(), [1.0, 5.0, 1.75]);
        assert_eq!(moments.mean_squares(), [0.25, 8.5, 12.5 / 16.0]);
    }
}
