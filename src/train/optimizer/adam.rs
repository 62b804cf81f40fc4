//! [Adam](https://arxiv.org/abs/1412.6980): bias-corrected moments. Weight decay λ, where it is asked for, is the
//! penalty `λ/2 · |p|²` of the loss as in `torch.optim.Adam`: `g ← g + λp` before the moments.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::adamw::AdamW;
use super::rule::{Rule, Scalars, Slot, Tensor, Updated, times};

/// Settings that stay the same through a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adam {
    /// Decay of the first moment.
    pub(super) beta1: f64,
    /// Decay of the second moment.
    pub(super) beta2: f64,
    /// Keeps the division finite.
    pub(super) eps: f64,
    /// Strength of the penalty.
    pub(super) weight_decay: f64,
}

impl Adam {
    fn undecayed(&self) -> AdamW {
        let &Self { beta1, beta2, eps, .. } = self;
        AdamW { beta1, beta2, eps, weight_decay: 0.0 }
    }
}

impl Rule for Adam {
    fn slots(&self, name: &str, shape: &[i32]) -> Vec<Slot> {
        self.undecayed().slots(name, shape)
    }

    fn numbers(&self, lr: f64, count: u64) -> Vec<f64> {
        self.undecayed().numbers(lr, count)
    }

    fn update(&self, scalars: Scalars, tensors: &[Tensor]) -> Result<Vec<Updated>, Exception> {
        if self.weight_decay == 0.0 {
            return self.undecayed().update(scalars, tensors);
        }
        let penalised =
            |tensor: &Tensor| tensor.gradient(scalars)?.add(times(&tensor.value()?, self.weight_decay)?);
        let grads = tensors.iter().map(penalised).collect::<Result<Vec<_>, Exception>>()?;
        let tensors: Vec<Tensor> = tensors
            .iter()
            .zip(&grads)
            .map(|(tensor, grad)| Tensor { grad, memory: tensor.memory.clone(), ..*tensor })
            .collect();
        let grad_scale = &Array::from_f32(1.0);
        self.undecayed().update(Scalars { grad_scale, ..scalars }, &tensors)
    }
}
