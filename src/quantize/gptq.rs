//! GPTQ ([Frantar et al.](https://arxiv.org/abs/2210.17323)): columns are rounded one after the other, and the error of
//! each is compensated by those that follow.
//!
//! With the Hessian `H = Σ x·xᵀ` of the inputs and the lower triangle `M` of `H⁻¹ = Mᵀ·M`, columns are rounded from the
//! last to the first:
//!
//! ```text
//! e = (w_k − q_k) / M_kk        w_j −= e · M_kj   for j < k
//! ```
//!
//! Columns are sorted by `H_kk`, so that those with the largest activations come first. Scales are fitted before to the
//! original weights, so that groups stay consecutive in the checkpoint.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::grid::{Grid, max_code};
use crate::Result;
use crate::calibrate::{InverseFactor, SecondMoments};

/// Columns whose errors reach the others in one product.
const BLOCK: usize = 128;

/// Settings of GPTQ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Fraction of the mean of the diagonal of `H` that is added to it.
    pub damping: f64,
    /// Whether columns are sorted by their activations.
    pub act_order: bool,
}

/// Codes of a matrix.
#[derive(Debug)]
pub(super) struct Rounded {
    /// `[rows, columns]`
    pub codes: Vec<u8>,
    /// Damping that made `H` positive definite.
    pub damping: f64,
}

/// Rounds `weights`, `[rows, columns]`, to `grid`.
///
/// # Errors
/// Moments that are not finite, or not positive definite with any damping.
pub(super) fn gptq(
    weights: &[f32],
    grid: &Grid,
    moments: &SecondMoments,
    settings: Settings,
) -> Result<Rounded> {
    let factor = Factor::new(moments, settings)?;
    let (codes, _) = factor.round(weights, grid);
    Ok(Rounded { codes, damping: factor.0.damping })
}

/// The factor of the inverse Hessian of a layer, for any number of grids.
pub(super) struct Factor(InverseFactor);

impl Factor {
    /// Factorizes `moments`.
    ///
    /// # Errors
    /// As [`gptq`].
    pub(super) fn new(moments: &SecondMoments, settings: Settings) -> Result<Self> {
        InverseFactor::new(moments, settings.act_order, settings.damping).map(Self)
    }

    /// Codes of `weights`, `[rows, columns]`, on `grid`, and the squared error of the layer's output, in the mean over
    /// tokens: `Σ e²`.
    pub(super) fn round(&self, weights: &[f32], grid: &Grid) -> (Vec<u8>, f64) {
        let InverseFactor { order, triangle, .. } = &self.0;
        let columns = order.len();
        let mut work = vec![0.0_f32; weights.len()];
        work.par_chunks_exact_mut(columns).zip(weights.par_chunks_exact(columns)).for_each(
            |(work, weights)| {
                for (slot, &column) in work.iter_mut().zip(order) {
                    *slot = weights[column];
                }
            },
        );
        let (rows, max) = (weights.len() / columns, max_code(grid.format));
        let mut codes = vec![0_u8; weights.len()];
        let mut errors = vec![0.0_f32; rows * BLOCK];
        let mut loss = 0.0;
        let mut end = columns;
        while end > 0 {
            let start = end.saturating_sub(BLOCK);
            let width = end - start;
            let errors = &mut errors[..rows * width];
            work.par_chunks_exact_mut(columns)
                .zip(codes.par_chunks_exact_mut(columns))
                .zip(errors.par_chunks_exact_mut(width))
                .enumerate()
                .for_each(|(row, ((work, codes), errors))| {
                    for k in (start..end).rev() {
                        let affine = grid.at(row, order[k]);
                        let code = affine.code(work[k], max);
                        let factors = &triangle[k * columns..=k * columns + k];
                        let error = (work[k] - affine.value(code)) / factors[k];
                        for (weight, factor) in work[start..k].iter_mut().zip(&factors[start..k]) {
                            *weight -= error * factor;
                        }
                        errors[k - start] = error;
                        codes[order[k]] = code as u8;
                    }
                });
            loss += errors.iter().map(|&error| f64::from(error) * f64::from(error)).sum::<f64>();
            // Row-major matrices, seen as the transposed ones.
            matmul(
                MatMut::from_column_major_slice_mut(&mut work, columns, rows).subrows_mut(0, start),
                Accum::Add,
                MatRef::from_column_major_slice(&triangle[start * columns..end * columns], columns, width)
                    .subrows(0, start),
                MatRef::from_column_major_slice(errors, width, rows),
                -1.0,
                Par::rayon(0),
            );
            end = start;
        }
        (codes, loss)
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::{Array, Dtype};

    use super::*;
    use crate::calibrate::columns_in_order;
    use crate::kernels::quantized::Format;

    /// Correlated inputs, `[tokens, columns]`, and weights.
    fn problem(rows: usize, columns: usize, tokens: usize) -> (Vec<f32>, Vec<f32>) {
        let noise = |i: usize| ((i * 7919 + 13) % 2003) as f32 / 1001.5 - 1.0;
        let weights = (0..rows * columns).map(|i| noise(i * 3 + 1).powi(3)).collect();
        let mut x = vec![0.0; tokens * columns];
        for token in 0..tokens {
            for column in 0..columns {
                let shared = noise(token * 31 + column / 8);
                let scale = 1.0 + (column % 5) as f32;
                x[token * columns + column] = scale * (shared + 0.5 * noise(token * columns + column));
            }
        }
        (weights, x)
    }

    fn moments(x: &[f32], columns: usize) -> SecondMoments {
        let mut moments = SecondMoments::new(columns);
        moments.add(&Array::from_slice(x, &[(x.len() / columns) as i32, columns as i32])).unwrap();
        moments
    }

    /// Squared error of the outputs.
    fn loss(weights: &[f32], codes: &[u8], grid: &Grid, x: &[f32], columns: usize) -> f64 {
        let mut loss = 0.0;
        for (row, (weights, codes)) in weights.chunks(columns).zip(codes.chunks(columns)).enumerate() {
            let delta: Vec<f64> = (0..columns)
                .map(|j| f64::from(weights[j] - grid.at(row, j).value(f32::from(codes[j]))))
                .collect();
            for x in x.chunks(columns) {
                let error: f64 = x.iter().zip(&delta).map(|(&x, delta)| f64::from(x) * delta).sum();
                loss += error * error;
            }
        }
        loss
    }

    #[test]
    fn outputs_are_closer_than_those_of_the_nearest_codes() {
        let (columns, rows) = (256, 16);
        let (weights, x) = problem(rows, columns, 700);
        let moments = moments(&x, columns);
        for bits in [2, 3, 4] {
            let format = Format::affine(bits, 64).unwrap();
            let grid = Grid::fit(&weights, columns, format, Dtype::Float32, true, None);
            let mut nearest = vec![0; weights.len()];
            grid.encode(&weights, &mut nearest);
            let rtn = loss(&weights, &nearest, &grid, &x, columns);
            for act_order in [false, true] {
                let settings = Settings { damping: 0.01, act_order };
                let rounded = gptq(&weights, &grid, &moments, settings).unwrap();
                let share = loss(&weights, &rounded.codes, &grid, &x, columns) / rtn;
                assert!(share < 0.6, "{bits} bits, {act_order}: {share}");
            }
        }
    }

    /// The authors' algorithm in f64, without blocks: the whole inverse is updated after each column.
    fn obq(weights: &[f32], grid: &Grid, moments: &SecondMoments, order: &[usize], damping: f64) -> Vec<u8> {
        let n = moments.len();
        let added = damping * moments.mean_squares().iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
        let hessian = faer::Mat::<f64>::from_fn(n, n, |i, j| {
            f64::from(moments.mean(order[i], order[j])) + if i == j { added } else { 0.0 }
        });
        let mut inverse = faer::linalg::solvers::DenseSolveCore::inverse(&hessian.partial_piv_lu());
        let rows = weights.len() / n;
        let mut work: Vec<f64> =
            (0..rows * n).map(|i| f64::from(weights[i / n * n + order[i % n]])).collect();
        let mut codes = vec![0; weights.len()];
        for k in (0..n).rev() {
            let pivot = inverse[(k, k)];
            for row in 0..rows {
                let affine = grid.at(row, order[k]);
                let code = affine.code(work[row * n + k] as f32, max_code(grid.format));
                codes[row * n + order[k]] = code as u8;
                let error = (work[row * n + k] - f64::from(affine.value(code))) / pivot;
                for j in 0..k {
                    work[row * n + j] -= error * inverse[(k, j)];
                }
            }
            for i in 0..k {
                for j in 0..k {
                    let product = inverse[(i, k)] * inverse[(k, j)] / pivot;
                    inverse[(i, j)] -= product;
                }
            }
        }
        codes
    }

    #[test]
    fn codes_are_those_of_optimal_brain_quantization_in_this_order() {
        let columns = 192;
        let (weights, x) = problem(8, columns, 500);
        let moments = moments(&x, columns);
        let grid = Grid::fit(&weights, columns, Format::affine(4, 32).unwrap(), Dtype::Float32, false, None);
        for act_order in [false, true] {
            let rounded = gptq(&weights, &grid, &moments, Settings { damping: 0.01, act_order }).unwrap();
            let expected = obq(&weights, &grid, &moments, &columns_in_order(&moments, act_order), 0.01);
            let different = rounded.codes.iter().zip(&expected).filter(|(a, b)| a != b).count();
            // A value halfway between two codes goes either way in f32 and f64, and others follow.
            assert!(different * 200 <= expected.len(), "{different} of {}", expected.len());
        }
    }

    #[test]
    fn damping_is_raised_until_it_works() {
        let columns = 64;
        // Two tokens say nothing about most directions; a negative damping below is no use.
        let x: Vec<f32> = (0..2 * columns).map(|i| (i % 7) as f32 * 1e3).collect();
        let (weights, _) = problem(4, columns, 1);
        let grid = Grid::fit(&weights, columns, Format::affine(4, 64).unwrap(), Dtype::Float32, true, None);
        let settings = Settings { damping: 1e-9, act_order: true };
        let rounded = gptq(&weights, &grid, &moments(&x, columns), settings).unwrap();
        assert!(rounded.damping > 1e-9, "{}", rounded.damping);
        let broken = moments(&vec![f32::NAN; columns], columns);
        let message = gptq(&weights, &grid, &broken, settings).unwrap_err().to_string();
        assert!(message.contains("not finite"), "{message}");
    }

    #[test]
    fn inputs_that_are_always_zero_are_rounded_to_nearest() {
        let columns = 64;
        let (weights, mut x) = problem(4, columns, 300);
        x.iter_mut().skip(5).step_by(columns).for_each(|x| *x = 0.0);
        let grid = Grid::fit(&weights, columns, Format::affine(3, 64).unwrap(), Dtype::Float32, false, None);
        let settings = Settings { damping: 0.01, act_order: true };
        let rounded = gptq(&weights, &grid, &moments(&x, columns), settings).unwrap();
        let mut nearest = vec![0; weights.len()];
        grid.encode(&weights, &mut nearest);
        for row in 0..4 {
            assert_eq!(rounded.codes[row * columns + 5], nearest[row * columns + 5]);
        }
    }
}
