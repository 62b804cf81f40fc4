//! [Lion](https://arxiv.org/abs/2302.06675): the sign of an interpolated momentum.
//!
//! ```text
//! p ← p·(1 - lr·λ) - lr · sign(β₁m + (1-β₁)g)
//! m ← β₂m + (1-β₂)g
//! ```

use mlx_rs::error::Exception;

use super::rule::{Scalars, Slot, Tensor, UpdateRule, Updated, moving_average, slot_like};

/// Hyperparameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lion {
    /// Interpolation factor of the update.
    pub(super) beta1: f64,
    /// Decay of the momentum.
    pub(super) beta2: f64,
    /// Decoupled weight decay.
    pub(super) weight_decay: f64,
}

impl UpdateRule for Lion {
    fn slots(&self, _name: &str, shape: &[i32]) -> Vec<Slot> {
        vec![slot_like("momentum", shape)]
    }

    fn scalars(&self, lr: f64, _count: u64) -> Vec<f64> {
        vec![lr, 1.0 - lr * self.weight_decay]
    }

    fn update(&self, scalars: Scalars, tensors: &[Tensor]) -> Result<Vec<Updated>, Exception> {
        let [lr, keep] = scalars.first()?;
        let update = |tensor: &Tensor| {
            let grad = tensor.gradient(scalars)?;
            let direction = mlx_rs::ops::sign(moving_average(tensor.only_slot(), &grad, self.beta1)?)?;
            let kept = tensor.value()?.multiply(keep)?;
            let momentum = moving_average(tensor.only_slot(), &grad, self.beta2)?;
            tensor.updated(&kept.subtract(direction.multiply(lr)?)?, vec![momentum])
        };
        tensors.iter().map(update).collect()
    }
}
