//! [Adafactor](https://arxiv.org/abs/1804.04235): second moments of a matrix as the product of those of its rows and
//! columns, without a first moment.
//!
//! ```text
//! β ← 1 - t⁻⁰·⁸
//! r ← βr + (1-β) · mean over columns of g² + ε        c ← βc + (1-β) · mean over rows of g² + ε
//! u ← g / √(r cᵀ / mean r)
//! p ← p·(1 - lr·λ) - lr · u / max(1, rms u)
//! ```
//! The step size is neither relative to the scale of the parameter nor to t; it follows the schedule, as in the
//! `Trainer` of transformers.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::rule::{Scalars, Slot, Tensor, UpdateRule, Updated, slot_like, weighted_sum};

const EPS: f32 = 1e-30;
const DECAY: f64 = -0.8;

/// Hyperparameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adafactor {
    /// Decoupled weight decay.
    pub(super) weight_decay: f64,
}

impl UpdateRule for Adafactor {
    fn slots(&self, _name: &str, shape: &[i32]) -> Vec<Slot> {
        match shape {
            [lead @ .., rows, columns] => vec![
                Slot { name: "rows", shape: [lead, &[*rows]].concat() },
                Slot { name: "columns", shape: [lead, &[*columns]].concat() },
            ],
            _ => vec![slot_like("second", shape)],
        }
    }

    fn scalars(&self, lr: f64, count: u64) -> Vec<f64> {
        let share = (count as f64).powf(DECAY);
        vec![lr, 1.0 - lr * self.weight_decay, 1.0 - share, share]
    }

    fn update(&self, scalars: Scalars, tensors: &[Tensor]) -> Result<Vec<Updated>, Exception> {
        let [lr, keep, beta, share] = scalars.first()?;
        let update = |tensor: &Tensor| {
            let grad = tensor.gradient(scalars)?;
            let square = grad.square()?.add(Array::from_f32(EPS))?;
            let old = |slot: usize| tensor.state.as_ref().and_then(|state| state.get(slot).copied());
            let (factor, state) = if grad.ndim() < 2 {
                let second = weighted_sum(old(0), &square, [beta, share])?;
                (second.rsqrt()?, vec![second])
            } else {
                let rows = weighted_sum(old(0), &square.mean_axis(-1, false)?, [beta, share])?;
                let columns = weighted_sum(old(1), &square.mean_axis(-2, false)?, [beta, share])?;
                let row_factor = rows.divide(rows.mean_axis(-1, true)?)?.rsqrt()?.expand_dims(-1)?;
                let factor = row_factor.multiply(columns.rsqrt()?.expand_dims(-2)?)?;
                (factor, vec![rows, columns])
            };
            let step = grad.multiply(factor)?;
            let size = step.square()?.mean(None)?.sqrt()?;
            let step = step.divide(mlx_rs::ops::maximum(size, Array::from_f32(1.0))?)?;
            let kept = tensor.value()?.multiply(keep)?;
            tensor.updated(&kept.subtract(step.multiply(lr)?)?, state)
        };
        tensors.iter().map(update).collect()
    }
}
