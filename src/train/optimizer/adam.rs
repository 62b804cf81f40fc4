//! [Adam](https://arxiv.org/abs/1412.6980) with bias-corrected moments. Weight decay λ is an L2 penalty, `g ← g +
//! λp`, as in `torch.optim.Adam`.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::adamw::AdamW;
use super::rule::{Scalars, Slot, Tensor, UpdateRule, Updated, scaled};

/// Hyperparameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adam {
    /// Decay of the first moment.
    pub(super) beta1: f64,
    /// Decay of the second moment.
    pub(super) beta2: f64,
    /// Term added to the denominator.
    pub(super) eps: f64,
    /// Weight of the L2 penalty.
    pub(super) weight_decay: f64,
}

impl Adam {
    fn without_decay(&self) -> AdamW {
        let &Self { beta1, beta2, eps, .. } = self;
        AdamW { beta1, beta2, eps, weight_decay: 0.0 }
    }
}

impl UpdateRule for Adam {
    fn slots(&self, name: &str, shape: &[i32]) -> Vec<Slot> {
        self.without_decay().slots(name, shape)
    }

    fn scalars(&self, lr: f64, count: u64) -> Vec<f64> {
        self.without_decay().scalars(lr, count)
    }

    fn update(&self, scalars: Scalars, tensors: &[Tensor]) -> Result<Vec<Updated>, Exception> {
        if self.weight_decay == 0.0 {
            return self.without_decay().update(scalars, tensors);
        }
        let penalised =
            |tensor: &Tensor| tensor.gradient(scalars)?.add(scaled(&tensor.value()?, self.weight_decay)?);
        let grads = tensors.iter().map(penalised).collect::<Result<Vec<_>, Exception>>()?;
        let tensors: Vec<Tensor> = tensors
            .iter()
            .zip(&grads)
            .map(|(tensor, grad)| Tensor { grad, state: tensor.state.clone(), ..*tensor })
            .collect();
        let grad_scale = &Array::from_f32(1.0);
        self.without_decay().update(Scalars { grad_scale, ..scalars }, &tensors)
    }
}
