//! Stochastic gradient descent with [momentum](https://proceedings.mlr.press/v28/sutskever13.html), as in
//! `torch.optim.SGD`.
//!
//! ```text
//! g ← g + λp
//! v ← μv + g
//! p ← p - lr · v                  or, with Nesterov's look ahead, p - lr · (g + μv)
//! ```

use mlx_rs::error::Exception;

use super::rule::{Scalars, Slot, Tensor, UpdateRule, Updated, scaled, slot_like};

/// Hyperparameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sgd {
    /// Momentum μ; 0 for none.
    pub(super) momentum: f64,
    /// Whether to use Nesterov momentum.
    pub(super) nesterov: bool,
    /// Weight of the L2 penalty.
    pub(super) weight_decay: f64,
}

impl UpdateRule for Sgd {
    fn slots(&self, _name: &str, shape: &[i32]) -> Vec<Slot> {
        if self.momentum > 0.0 { vec![slot_like("velocity", shape)] } else { Vec::new() }
    }

    fn scalars(&self, lr: f64, _count: u64) -> Vec<f64> {
        vec![lr]
    }

    fn update(&self, scalars: Scalars, tensors: &[Tensor]) -> Result<Vec<Updated>, Exception> {
        let [lr] = scalars.first()?;
        let update = |tensor: &Tensor| {
            let value = tensor.value()?;
            let mut grad = tensor.gradient(scalars)?;
            if self.weight_decay > 0.0 {
                grad = grad.add(scaled(&value, self.weight_decay)?)?;
            }
            let mut state = Vec::new();
            if self.momentum > 0.0 {
                let velocity = match tensor.only_slot() {
                    Some(velocity) => scaled(velocity, self.momentum)?.add(&grad)?,
                    None => grad.clone(),
                };
                grad = if self.nesterov {
                    grad.add(scaled(&velocity, self.momentum)?)?
                } else {
                    velocity.clone()
                };
                state.push(velocity);
            }
            tensor.updated(&value.subtract(grad.multiply(lr)?)?, state)
        };
        tensors.iter().map(update).collect()
    }
}
