//! Stochastic gradient descent with [momentum](https://proceedings.mlr.press/v28/sutskever13.html), as in
//! `torch.optim.SGD`.
//!
//! ```text
//! g ← g + λp
//! v ← μv + g
//! p ← p - lr · v                  or, with Nesterov's look ahead, p - lr · (g + μv)
//! ```

use mlx_rs::error::Exception;

use super::rule::{Rule, Scalars, Slot, Tensor, Updated, like, times};

/// Settings that stay the same through a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sgd {
    /// Decay of the velocity, μ; without, there is none.
    pub(super) momentum: f64,
    /// Whether the step looks ahead.
    pub(super) nesterov: bool,
    /// Strength of the penalty `λ/2 · |p|²`.
    pub(super) weight_decay: f64,
}

impl Rule for Sgd {
    fn slots(&self, _name: &str, shape: &[i32]) -> Vec<Slot> {
        if self.momentum > 0.0 { vec![like("velocity", shape)] } else { Vec::new() }
    }

    fn numbers(&self, lr: f64, _count: u64) -> Vec<f64> {
        vec![lr]
    }

    fn update(&self, scalars: Scalars, tensors: &[Tensor]) -> Result<Vec<Updated>, Exception> {
        let [lr] = scalars.first()?;
        let update = |tensor: &Tensor| {
            let value = tensor.value()?;
            let mut grad = tensor.gradient(scalars)?;
            if self.weight_decay > 0.0 {
                grad = grad.add(times(&value, self.weight_decay)?)?;
            }
            let mut memory = Vec::new();
            if self.momentum > 0.0 {
                let velocity = match tensor.remembered() {
                    Some(velocity) => times(velocity, self.momentum)?.add(&grad)?,
                    None => grad.clone(),
                };
                grad = if self.nesterov {
                    grad.add(times(&velocity, self.momentum)?)?
                } else {
                    velocity.clone()
                };
                memory.push(velocity);
            }
            tensor.becomes(&value.subtract(grad.multiply(lr)?)?, memory)
        };
        tensors.iter().map(update).collect()
    }
}
