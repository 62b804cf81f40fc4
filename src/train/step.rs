//! One optimizer step: gradients of the micro-batches, clipping, update.

use mlx_rs::error::Exception;
use mlx_rs::transforms::value_and_grad_with_argnums;
use mlx_rs::{Array, Dtype};

use super::objective::{Objective, Scored, Totals};
use crate::data::Batch;
use crate::io::tensors::Tensors;
use crate::kernels::adamw::squared_norm;
use crate::models::Model;
use crate::nn::embedding::Noise;
use crate::rng::{self, Purpose};
use crate::{Error, Result, kernels, nn};

/// Current values of the parameters called `names`, in f32 whatever the model computes in: steps may be smaller than
/// what half precision tells apart ([mixed precision](https://arxiv.org/abs/1710.03740)).
///
/// # Errors
/// What MLX raises.
pub fn parameters(model: &dyn Model, names: &[String]) -> Result<Tensors> {
    let all = model.parameters().flatten();
    let values = names.iter().filter_map(|name| Some((name, *all.get(name.as_str())?)));
    values.map(|(name, value)| Ok((name.clone(), value.as_dtype(Dtype::Float32)?))).collect()
}

/// Puts `values` into `model`, each in the number format the model has there.
///
/// # Errors
/// What MLX raises.
pub fn set_parameters(model: &mut dyn Model, values: &Tensors) -> nn::Result<()> {
    let mut all = model.parameters_mut().flatten();
    for (name, value) in values {
        if let Some(slot) = all.get_mut(name.as_str()) {
            **slot = value.as_dtype(slot.dtype())?;
        }
    }
    Ok(())
}

/// The loss of `batch` divided by `totals`, and its gradient with respect to `parameters`. The model holds `parameters`
/// afterwards as before.
///
/// With a `scale` the gradient, but not the loss, is that of `scale` times the loss.
///
/// # Errors
/// What MLX raises.
pub fn gradients(
    model: &mut dyn Model,
    parameters: &Tensors,
    objective: &Objective,
    batch: &Batch,
    totals: Totals,
    scale: Option<f32>,
) -> Result<(Scored, Tensors)> {
    let values: Vec<Array> = parameters.values().cloned().collect();
    let argnums: Vec<i32> = (0..values.len() as i32).collect();
    // The gradient is that of the first output alone.
    let traced = |arrays: &[Array]| -> std::result::Result<Vec<Array>, Exception> {
        set_parameters(model, &parameters.keys().cloned().zip(arrays.iter().cloned()).collect())?;
        let Scored { loss, rewards } = objective.loss(model, batch, totals, scale, true)?;
        Ok([loss].into_iter().chain(rewards).collect())
    };
    let outcome = value_and_grad_with_argnums(traced, argnums.as_slice())(&values);
    // Tracing left placeholders in the model.
    set_parameters(model, parameters)?;
    let (outputs, grads) = outcome?;
    let mut outputs = outputs.into_iter();
    let loss = outputs.next().ok_or_else(|| Error::Training("the loss has no value".into()))?;
    let loss = loss.divide(Array::from_f32(scale.unwrap_or(1.0)))?;
    let scored = Scored { loss, rewards: outputs.next() };
    Ok((scored, parameters.keys().cloned().zip(grads).collect()))
}

/// Adds `more` to `sum`, name by name.
///
/// # Errors
/// What MLX raises.
pub fn accumulate(sum: Option<Tensors>, more: Tensors) -> Result<Tensors> {
    let Some(mut sum) = sum else { return Ok(more) };
    for (name, grad) in more {
        let total = match sum.get(&name) {
            Some(old) => old.add(&grad)?,
            None => grad,
        };
        sum.insert(name, total);
    }
    Ok(sum)
}

/// Joint Euclidean norm of `grads`.
///
/// # Errors
/// What MLX raises.
pub fn norm(grads: &Tensors) -> Result<f32> {
    // `Tensors` is sorted, so the sum is the same in every run.
    let norm = squared_norm(&grads.values().collect::<Vec<_>>())?.sqrt()?;
    kernels::eval([&norm])?;
    Ok(norm.item_exact::<f32>())
}

/// What gradients of norm `norm` are multiplied with so that it is at most `max_norm` (0: left alone), as
/// [gradient clipping](https://arxiv.org/abs/1211.5063) does.
#[must_use]
pub fn clip_factor(norm: f32, max_norm: f32) -> f32 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

/// Gives every adapter with dropout its mask for one pass, named by seed, micro-batch, part of it and process, or (`None`)
/// turns dropout off.
///
/// # Errors
/// What MLX raises.
pub fn set_dropout(model: &mut dyn Model, draw: Option<(u64, [u64; 3])>) -> Result<()> {
    let mut layer = 0;
    model.visit_linears(&mut |_, linear| {
        layer += 1;
        linear.low_rank.dropout_key = match draw {
            Some((seed, [micro, part, rank])) if linear.low_rank.dropout > 0.0 => {
                Some(rng::key(seed, Purpose::Dropout, &[micro, part, rank, layer])?)
            }
            _ => None,
        };
        Ok(())
    })
}

/// Gives the embedding its noise of strength `alpha` for one pass, or (`None`) turns it off.
///
/// # Errors
/// What MLX raises.
pub fn set_noise(model: &mut dyn Model, alpha: Option<f32>, draw: Option<(u64, [u64; 3])>) -> Result<()> {
    let noise = alpha
        .zip(draw)
        .map(|(alpha, (seed, pass))| rng::key(seed, Purpose::Noise, &pass).map(|key| Noise { alpha, key }));
    model.embedding_mut().noise = noise.transpose()?;
    Ok(())
}
