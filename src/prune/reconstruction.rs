//! Repair of a pruned layer without training: the weights that stay are changed so that its outputs on calibration text
//! are closest to those of the original.
//!
//! With the original weights `w₀` of a row and the Hessian `H = Σ x·xᵀ`, the squared error `(w − w₀)·H·(w − w₀)ᵀ` is
//! minimized over the weights that stay by the conjugate gradient method, with the diagonal as its preconditioner, for all
//! rows at once.

use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::calibrate::SecondMoments;

/// The error falls quickly at first.
const ITERATIONS: usize = 32;
/// Added to the diagonal, as a fraction of its mean.
const DAMPING: f32 = 1e-2;

/// One row in the course of the iteration.
struct Row {
    residual: Vec<f32>,
    direction: Vec<f32>,
    /// `residual·(preconditioned residual)`
    norm: f64,
}

/// Changes the weights of `pruned`, `[rows, columns]`, that stay in `mask`.
pub(super) fn least_squares(pruned: &mut [f32], original: &[f32], mask: &[bool], moments: &SecondMoments) {
    let n = moments.len();
    let squares = moments.mean_squares();
    let added = DAMPING * squares.iter().sum::<f32>() / n as f32;
    let inverse: Vec<f32> =
        squares.iter().map(|square| 1.0 / (square + added).max(f32::MIN_POSITIVE)).collect();
    let hessian = moments.means();
    let difference: Vec<f32> = original.iter().zip(&*pruned).map(|(w, p)| w - p).collect();
    let gradient = products(&difference, &hessian, n, added);
    let mut rows: Vec<Row> = gradient
        .par_chunks_exact(n)
        .zip(mask.par_chunks_exact(n))
        .map(|(gradient, mask)| {
            let residual: Vec<f32> =
                gradient.iter().zip(mask).map(|(&g, &stays)| if stays { g } else { 0.0 }).collect();
            let direction: Vec<f32> = residual.iter().zip(&inverse).map(|(r, m)| r * m).collect();
            let norm = dot(&residual, &direction);
            Row { residual, direction, norm }
        })
        .collect();
    for _ in 0..ITERATIONS {
        let directions: Vec<f32> = rows.iter().flat_map(|row| row.direction.iter().copied()).collect();
        let images = products(&directions, &hessian, n, added);
        rows.par_iter_mut()
            .zip(images.par_chunks_exact(n))
            .zip(pruned.par_chunks_exact_mut(n).zip(mask.par_chunks_exact(n)))
            .for_each(|((row, image), (weights, mask))| row.step(image, weights, mask, &inverse));
    }
}

impl Row {
    /// One iteration; `image` is the product of the direction and the Hessian.
    fn step(&mut self, image: &[f32], weights: &mut [f32], mask: &[bool], inverse: &[f32]) {
        let curvature = dot(&self.direction, image);
        if self.norm <= 0.0 || curvature <= 0.0 {
            return;
        }
        let length = (self.norm / curvature) as f32;
        for (j, weight) in weights.iter_mut().enumerate() {
            *weight += length * self.direction[j];
            if mask[j] {
                self.residual[j] -= length * image[j];
            }
        }
        let norm: f64 = self.residual.iter().zip(inverse).map(|(r, m)| f64::from(r * r * m)).sum();
        let share = (norm / self.norm) as f32;
        for ((direction, residual), inverse) in self.direction.iter_mut().zip(&self.residual).zip(inverse) {
            *direction = residual * inverse + share * *direction;
        }
        self.norm = norm;
    }
}

/// `values·(H + added·I)`, `[rows, n]`.
fn products(values: &[f32], hessian: &[f32], n: usize, added: f32) -> Vec<f32> {
    let rows = values.len() / n;
    let mut products = values.to_vec();
    matmul(
        MatMut::from_column_major_slice_mut(&mut products, n, rows),
        BlockStructure::Rectangular,
        Accum::Replace,
        MatRef::from_column_major_slice(hessian, n, n),
        BlockStructure::Rectangular,
        MatRef::from_column_major_slice(values, n, rows),
        BlockStructure::Rectangular,
        1.0,
        Par::rayon(0),
    );
    products.iter_mut().zip(values).for_each(|(product, value)| *product += added * value);
    products
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
}

/// Scales every row of `pruned`, `[rows, columns]`, so that its output has the least squared error:
/// `w₀·H·wᵀ / w·H·wᵀ`.
pub(super) fn scale_rows(pruned: &mut [f32], original: &[f32], moments: &SecondMoments) {
    let n = moments.len();
    let images = products(pruned, &moments.means(), n, 0.0);
    let rows =
        pruned.par_chunks_exact_mut(n).zip(original.par_chunks_exact(n)).zip(images.par_chunks_exact(n));
    rows.for_each(|((pruned, original), image)| {
        let (common, own) = (dot(original, image), dot(pruned, image));
        if own > 0.0 && common > 0.0 {
            let scale = (common / own) as f32;
            for weight in pruned {
                *weight *= scale;
            }
        }
    });
}
