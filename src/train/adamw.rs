//! [AdamW](https://arxiv.org/abs/1711.05101): decoupled weight decay, bias-corrected moments.

use super::lr_factors::LrFactors;
use crate::io::tensors::Tensors;
use crate::kernels::adamw::{Step, Tensor, Updated, adamw};
use crate::{Result, kernels};

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

/// What changes from step to step.
#[derive(Debug, Clone, Copy)]
pub struct Pace<'a> {
    /// Learning rate.
    pub lr: f64,
    /// What it is multiplied with.
    pub factors: &'a LrFactors,
    /// What gradients are multiplied with, to clip them.
    pub grad_scale: f32,
}

/// Bytes of new values that are computed at once. Old values go as soon as their group is done, so this
/// is about what an update needs in addition to what it changes.
const GROUP_BYTES: usize = 64 << 20;

impl AdamW {
    /// Takes one step along `grads` (same names and shapes as `parameters`).
    ///
    /// Parameters are updated in groups; `replaced` is called with the new values of each, so that who
    /// else holds the old ones can let go of them.
    ///
    /// # Errors
    /// Shapes that do not fit; what a kernel reports. Some parameters are updated and some are not then.
    pub fn step(
        &self,
        parameters: &mut Tensors,
        mut grads: Tensors,
        moments: &mut Moments,
        pace: Pace<'_>,
        mut replaced: impl FnMut(&Tensors),
    ) -> Result<()> {
        moments.updates += 1;
        let &Self { beta1, beta2, eps, weight_decay } = self;
        let Pace { lr, factors, grad_scale } = pace;
        let update = moments.updates;
        for (factor, names) in groups(parameters).into_iter().flat_map(|names| factors.split(names)) {
            let step = Step { beta1, beta2, eps, weight_decay, lr: lr * factor, update, grad_scale };
            let tensors: Vec<Tensor> = names
                .iter()
                .map(|name| Tensor {
                    parameter: &parameters[name],
                    grad: &grads[name],
                    moments: moments.first.get(name).zip(moments.second.get(name)).map(<[_; 2]>::from),
                })
                .collect();
            let updated = adamw(&step, &tensors)?;
            kernels::eval(updated.iter().flat_map(|new| [&new.parameter, &new.first, &new.second]))?;
            let mut values = Tensors::new();
            for (name, Updated { parameter, first, second }) in names.into_iter().zip(updated) {
                grads.remove(&name);
                moments.first.insert(name.clone(), first);
                moments.second.insert(name.clone(), second);
                values.insert(name, parameter);
            }
            replaced(&values);
            parameters.append(&mut values);
        }
        Ok(())
    }
}

/// Names of `parameters` in groups whose new values take about [`GROUP_BYTES`], at least one in each.
fn groups(parameters: &Tensors) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut room = 0;
    for (name, parameter) in parameters {
        let bytes = parameter.nbytes() + 2 * size_of::<f32>() * parameter.size();
        match groups.last_mut() {
            Some(group) if bytes <= room => {
                group.push(name.clone());
                room -= bytes;
            }
            _ => {
                groups.push(vec![name.clone()]);
                room = GROUP_BYTES.saturating_sub(bytes);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use mlx_rs::Array;

    use super::*;

    #[test]
    fn three_steps_of_torch() {
        // torch.optim.AdamW([1., -2.], lr=0.1, betas=(.9, .99), eps=1e-8, weight_decay=0.1)
        // with gradients p² of the current parameters, PyTorch 2.15.
        let optimizer = AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
        let mut parameters: Tensors = [("p".to_owned(), Array::from_slice(&[1.0_f32, -2.0], &[2]))].into();
        let mut moments = Moments::default();
        let mut held = Tensors::new();
        for _ in 0..3 {
            let grads = [("p".to_owned(), parameters["p"].square().unwrap())].into();
            let pace = Pace { lr: 0.1, factors: &LrFactors::default(), grad_scale: 1.0 };
            let replaced = |values: &Tensors| held = values.clone();
            optimizer.step(&mut parameters, grads, &mut moments, pace, replaced).unwrap();
        }
        for (p, expected) in parameters["p"].as_slice::<f32>().iter().zip([0.677_904_8, -2.238_006_6]) {
            assert!((p - expected).abs() < 1e-6, "{p} {expected}");
        }
        assert_eq!(held["p"].as_slice::<f32>(), parameters["p"].as_slice::<f32>());
        assert_eq!(moments.updates, 3);
    }

    #[test]
    fn groups_hold_every_name_once_and_few_bytes() {
        let sizes = [3, GROUP_BYTES as i32 / 12, 1, 2, GROUP_BYTES as i32 / 24, GROUP_BYTES as i32 / 24];
        let tensors: Tensors = sizes
            .iter()
            .enumerate()
            .map(|(i, &size)| (format!("p{i}"), Array::zeros::<f32>(&[size]).unwrap()))
            .collect();
        let groups = groups(&tensors);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 3, 1]);
        assert!(groups.concat().iter().eq(tensors.keys()));
    }
}
