//! [AdamW](https://arxiv.org/abs/1711.05101): Adam with decoupled weight decay. The formula is given at [the
//! kernel](crate::kernels::adamw).

use mlx_rs::error::Exception;

use super::rule::{Scalars, Slot, Tensor, UpdateRule, Updated, slot_like};
use crate::kernels::adamw::{self as kernel, Hyperparameters, adamw};

/// Hyperparameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdamW {
    /// Decay of the first moment.
    pub(super) beta1: f64,
    /// Decay of the second moment.
    pub(super) beta2: f64,
    /// Term added to the denominator.
    pub(super) eps: f64,
    /// Decoupled weight decay.
    pub(super) weight_decay: f64,
}

impl AdamW {
    const fn decays(&self) -> Hyperparameters {
        let &Self { beta1, beta2, eps, weight_decay } = self;
        Hyperparameters { beta1, beta2, eps, weight_decay }
    }
}

impl UpdateRule for AdamW {
    fn slots(&self, _name: &str, shape: &[i32]) -> Vec<Slot> {
        vec![slot_like("first", shape), slot_like("second", shape)]
    }

    fn scalars(&self, lr: f64, count: u64) -> Vec<f64> {
        self.decays().factors(lr, count).to_vec()
    }

    fn update(&self, scalars: Scalars, tensors: &[Tensor]) -> Result<Vec<Updated>, Exception> {
        let scalars = kernel::Scalars { grad_scale: scalars.grad_scale, factors: scalars.first()? };
        let moments = |state: &Vec<_>| <[_; 2]>::try_from(state.as_slice()).ok();
        let tensors: Vec<_> = tensors
            .iter()
            .map(|tensor| kernel::Tensor {
                parameter: tensor.parameter,
                grad: tensor.grad,
                moments: tensor.state.as_ref().and_then(moments),
            })
            .collect();
        let updated = adamw(&self.decays(), scalars, &tensors)?.into_iter();
        Ok(updated
            .map(|new| Updated { parameter: new.parameter, state: vec![new.first, new.second] })
            .collect())
    }
}
