//! Random weights for training from scratch.

use std::collections::BTreeMap;

use mlx_rs::random;

use crate::nn::Network;
use crate::rng::{self, Purpose};
use crate::{Result, kernels};

/// Draws every matrix from `N(0, std²)`, sets norms to one and biases to zero.
///
/// # Errors
/// What MLX raises.
pub fn initialize(model: &mut dyn Network, std: f32, seed: u64) -> Result<()> {
    let sorted: BTreeMap<_, _> = model.parameters_mut().flatten().into_iter().collect();
    for (index, (_, parameter)) in sorted.into_iter().enumerate() {
        // Vectors (norms and biases) are created at their initial value.
        if parameter.ndim() > 1 {
            let key = rng::key(seed, Purpose::Init, &[index as u64])?;
            *parameter = random::normal::<f32>(parameter.shape(), 0.0, std, &key)?;
        }
    }
    Ok(kernels::eval(model.parameters().flatten().values().copied())?)
}
