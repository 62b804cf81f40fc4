//! [Muon](https://kellerjordan.github.io/posts/muon/): momentum, orthogonalized by Newton–Schulz iterations.
//!
//! ```text
//! m ← μm + (1-μ)g
//! u ← Newton–Schulz((1-μ)g + μm)
//! p ← p·(1 - lr·λ) - lr · 0.2 √max(rows, columns) · u
//! ```
//! The factor gives updates the RMS of `AdamW` updates ([Moonlight](https://arxiv.org/abs/2502.16982)), so that
//! both use the same learning rate, as `adjust_lr_fn="match_rms_adamw"` of `torch.optim.Muon`. Vectors, the
//! embedding and the head are updated by `AdamW`.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::adamw::AdamW;
use super::rule::{Scalars, Slot, Tensor, UpdateRule, Updated, moving_average, scaled, slot_like};

/// Coefficients of the Newton–Schulz polynomial.
const QUINTIC: [f64; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;
const EPS: f32 = 1e-7;
/// Number of scalars that precede those of the fallback.
const OWN: usize = 2;

/// Hyperparameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Muon {
    /// Momentum μ.
    pub(super) momentum: f64,
    /// Decoupled weight decay.
    pub(super) weight_decay: f64,
    /// Update rule of all other parameters.
    pub(super) fallback: AdamW,
}

impl UpdateRule for Muon {
    fn slots(&self, name: &str, shape: &[i32]) -> Vec<Slot> {
        if is_hidden_matrix(name, shape) {
            vec![slot_like("momentum", shape)]
        } else {
            self.fallback.slots(name, shape)
        }
    }

    fn scalars(&self, lr: f64, count: u64) -> Vec<f64> {
        [vec![lr, 1.0 - lr * self.weight_decay], self.fallback.scalars(lr, count)].concat()
    }

    fn update(&self, scalars: Scalars, tensors: &[Tensor]) -> Result<Vec<Updated>, Exception> {
        let rest_scalars = Scalars { scalars: &scalars.scalars[OWN.min(scalars.scalars.len())..], ..scalars };
        let mut updated = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            if is_hidden_matrix(tensor.name, tensor.parameter.shape()) {
                updated.push(self.update_matrix(scalars, tensor)?);
            } else {
                updated.append(&mut self.fallback.update(rest_scalars, std::slice::from_ref(tensor))?);
            }
        }
        Ok(updated)
    }
}

impl Muon {
    fn update_matrix(&self, scalars: Scalars, tensor: &Tensor) -> Result<Updated, Exception> {
        let [lr, keep] = scalars.first::<OWN>()?;
        let grad = tensor.gradient(scalars)?;
        let momentum = moving_average(tensor.only_slot(), &grad, self.momentum)?;
        let step = orthogonalize(&moving_average(Some(&momentum), &grad, self.momentum)?)?;
        let shape = tensor.parameter.shape();
        let longest = shape[shape.len() - 2..].iter().copied().max().unwrap_or(1);
        let size = 0.2 * f64::from(longest).sqrt();
        let kept = tensor.value()?.multiply(keep)?;
        tensor.updated(&kept.subtract(scaled(&step, size)?.multiply(lr)?)?, vec![momentum])
    }
}

/// Whether a parameter is a matrix of a hidden layer, or a stack of them.
fn is_hidden_matrix(name: &str, shape: &[i32]) -> bool {
    let hidden = !(name.contains("embed_tokens") || name.contains("lm_head"));
    hidden && matches!(shape, [rows, columns] | [_, rows, columns] if *rows > 1 && *columns > 1)
}

/// Orthogonalizes each matrix of `x`, `[..., rows, columns]`, approximately.
fn orthogonalize(x: &Array) -> Result<Array, Exception> {
    let shape = x.shape();
    let tall = shape[shape.len() - 2] > shape[shape.len() - 1];
    let mut x = if tall { x.swap_axes(-2, -1)? } else { x.clone() };
    let norm = x.square()?.sum_axes(&[-2, -1], true)?.sqrt()?;
    x = x.divide(norm.add(Array::from_f32(EPS))?)?;
    let [a, b, c] = QUINTIC;
    for _ in 0..ITERATIONS {
        let gram = x.matmul(x.swap_axes(-2, -1)?)?;
        let polynomial = scaled(&gram, b)?.add(scaled(&gram.matmul(&gram)?, c)?)?;
        x = scaled(&x, a)?.add(polynomial.matmul(&x)?)?;
    }
    if tall { x.swap_axes(-2, -1) } else { Ok(x) }
}
