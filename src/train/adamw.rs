//! [AdamW](https://arxiv.org/abs/1711.05101): decoupled weight decay, bias-corrected moments.

use mlx_rs::{Array, Dtype};

use crate::io::tensors::Tensors;
use crate::nn::Result;

/// Settings that stay the same through a run.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Keeps the division finite.
    pub eps: f64,
    /// Share of each parameter removed per unit of learning rate.
    pub weight_decay: f64,
}

/// Both moments of every parameter, f32, and the number of updates they have seen.
#[derive(Debug, Clone, Default)]
pub struct Moments {
    /// Running mean of the gradient, by parameter name.
    pub first: Tensors,
    /// Running mean of the squared gradient.
    pub second: Tensors,
    /// Updates so far.
    pub updates: u64,
}

impl AdamW {
    /// New values of `parameters` after one step along `grads` (same names and shapes).
    ///
    /// ```text
    /// m ← β₁m + (1-β₁)g        v ← β₂v + (1-β₂)g²
    /// p ← p·(1 - lr·λ) - lr · m/(1-β₁ᵗ) / (√(v/(1-β₂ᵗ)) + ε)
    /// ```
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn step(
        &self,
        parameters: &Tensors,
        grads: &Tensors,
        moments: &mut Moments,
        lr: f64,
    ) -> Result<Tensors> {
        moments.updates += 1;
        let exponent = i32::try_from(moments.updates).unwrap_or(i32::MAX);
        let correction = |beta: f64| 1.0 - beta.powi(exponent);
        let step_size = Array::from_f32((lr / correction(self.beta1)) as f32);
        let root_correction = Array::from_f32(correction(self.beta2).sqrt() as f32);
        let keep = Array::from_f32((1.0 - lr * self.weight_decay) as f32);
        let mut updated = Tensors::new();
        for (name, parameter) in parameters {
            let grad = grads[name].as_dtype(Dtype::Float32)?;
            let first = average(moments.first.get(name), &grad, self.beta1)?;
            let second = average(moments.second.get(name), &grad.square()?, self.beta2)?;
            let root = second.sqrt()?.divide(&root_correction)?.add(Array::from_f32(self.eps as f32))?;
            let value = parameter
                .as_dtype(Dtype::Float32)?
                .multiply(&keep)?
                .subtract(first.divide(root)?.multiply(&step_size)?)?;
            moments.first.insert(name.clone(), first);
            moments.second.insert(name.clone(), second);
            updated.insert(name.clone(), value.as_dtype(parameter.dtype())?);
        }
        Ok(updated)
    }
}

/// `beta·old + (1 - beta)·new`; an absent `old` is zero.
fn average(old: Option<&Array>, new: &Array, beta: f64) -> Result<Array> {
    let share = new.multiply(Array::from_f32((1.0 - beta) as f32))?;
    match old {
        Some(old) => old.multiply(Array::from_f32(beta as f32))?.add(share),
        None => Ok(share),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    #[test]
    fn three_steps_of_torch() {
        // torch.optim.AdamW([1., -2.], lr=0.1, betas=(.9, .99), eps=1e-8, weight_decay=0.1)
        // with gradients p² of the current parameters, PyTorch 2.15.
        let optimizer = AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
        let mut parameters: Tensors = [("p".to_owned(), Array::from_slice(&[1.0_f32, -2.0], &[2]))].into();
        let mut moments = Moments::default();
        for _ in 0..3 {
            let grads = [("p".to_owned(), parameters["p"].square().unwrap())].into();
            parameters = optimizer.step(&parameters, &grads, &mut moments, 0.1).unwrap();
        }
        eval([&parameters["p"]]).unwrap();
        for (p, expected) in parameters["p"].as_slice::<f32>().iter().zip([0.677_904_8, -2.238_006_6]) {
            assert!((p - expected).abs() < 1e-6, "{p} {expected}");
        }
    }
}
