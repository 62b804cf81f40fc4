//! Random initialization, for training from scratch.

use std::collections::BTreeMap;

use mlx_rs::random;

use crate::nn::Network;
use crate::rng::{self, Purpose};
use crate::{Result, kernels};

/// Initializes matrices from `N(0, std²)`, the scales of norms with one and biases with zero.
///
/// # Errors
/// Errors from MLX.
pub fn initialize(model: &mut dyn Network, std: f32, seed: u64) -> Result<()> {
    let sorted: BTreeMap<_, _> = model.parameters_mut().flatten().into_iter().collect();
    for (index, (_, parameter)) in sorted.into_iter().enumerate() {
        // Vectors (norms and biases) have their initial values already.
        if parameter.ndim() > 1 {
            let key = rng::key(seed, Purpose::Init, &[index as u64])?;
            *parameter = random::normal::<f32>(parameter.shape(), 0.0, std, &key)?;
        }
    }
    Ok(kernels::eval(model.parameters().flatten().values().copied())?)
}
