//! The factor of an inverse Hessian by which [GPTQ](https://arxiv.org/abs/2210.17323) and
//! [SparseGPT](https://arxiv.org/abs/2301.00774) compensate the error of one weight by the others.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::triangular_inverse::invert_upper_triangular;
use faer::{MatMut, MatRef, Par, Spec};
use rayon::prelude::*;

use super::SecondMoments;
use crate::{Error, Result};

/// Damping is raised tenfold at most this often.
const MAX_RAISES: i32 = 6;

/// The lower triangle `M` of `H⁻¹ = Mᵀ·M`, with the Hessian `H = Σ x·xᵀ` of a layer's inputs. A change of the weight at
/// place `k` by `−e·M_kk` is compensated by `w_j −= e·M_kj` for all `j < k`.
#[derive(Debug, Clone)]
pub struct InverseFactor {
    /// Column at each place; the last place comes first.
    pub order: Vec<usize>,
    /// `M`, row-major.
    pub triangle: Vec<f32>,
    /// Damping that made `H` positive definite.
    pub damping: f64,
}

impl InverseFactor {
    /// Factorizes `moments`, whose columns are sorted so that those of large activations come first, or from the first on.
    /// `damping` is the fraction of the mean of the diagonal that is added to it; it is raised where that is too little.
    ///
    /// # Errors
    /// Moments that are not finite, or not positive definite with any damping.
    pub fn new(moments: &SecondMoments, by_activation: bool, damping: f64) -> Result<Self> {
        let order = columns_in_order(moments, by_activation);
        let (triangle, damping) = inverse_factor(moments, &order, damping)?;
        Ok(Self { order, triangle, damping })
    }
}

/// Column at each place; the last place comes first.
#[must_use]
pub fn columns_in_order(moments: &SecondMoments, by_activation: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..moments.len()).rev().collect();
    if by_activation {
        let squares = moments.mean_squares();
        order.sort_by(|&a, &b| squares[a].total_cmp(&squares[b]));
    }
    order
}

/// Returns `M`, row-major and lower triangular, with `Mᵀ·M` the inverse of the damped moments in this `order`, and the
/// damping that was needed.
fn inverse_factor(moments: &SecondMoments, order: &[usize], damping: f64) -> Result<(Vec<f32>, f64)> {
    let n = order.len();
    let squares = moments.mean_squares();
    let mean = squares.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
    if !mean.is_finite() {
        return Err(Error::ModelLoading("its inputs are not finite on the calibration text".into()));
    }
    for raise in 0..=MAX_RAISES {
        let damping = damping * 10_f64.powi(raise);
        let added = (damping * mean) as f32;
        let mut lower = vec![0.0_f32; n * n];
        lower.par_chunks_exact_mut(n).enumerate().for_each(|(j, column)| {
            for (i, slot) in column.iter_mut().enumerate().skip(j) {
                *slot = moments.mean(order[i], order[j]);
            }
            // An input that is always zero has no other effect.
            column[j] = if column[j] == 0.0 { 1.0 } else { column[j] + added };
        });
        let mut scratch = MemBuffer::new(cholesky_in_place_scratch::<f32>(n, Par::rayon(0), Spec::default()));
        let factored = cholesky_in_place(
            MatMut::from_column_major_slice_mut(&mut lower, n, n),
            LltRegularization::default(),
            Par::rayon(0),
            MemStack::new(&mut scratch),
            Spec::default(),
        );
        if factored.is_ok() && (0..n).all(|i| lower[i * n + i].is_normal()) {
            let mut inverse = vec![0.0_f32; n * n];
            // The rows of `L⁻¹` are the columns of `(Lᵀ)⁻¹`.
            invert_upper_triangular(
                MatMut::from_column_major_slice_mut(&mut inverse, n, n),
                MatRef::from_column_major_slice(&lower, n, n).transpose(),
                Par::rayon(0),
            );
            return Ok((inverse, damping));
        }
    }
    Err(Error::Training(format!(
        "the second moments of its inputs are not positive definite, even with a damping of {:.0e}: use more \
         calibration text",
        damping * 10_f64.powi(MAX_RAISES)
    )))
}
