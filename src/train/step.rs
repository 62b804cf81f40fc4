//! One optimizer step: gradients of the micro-batches, clipping, update.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::minimum;
use mlx_rs::transforms::value_and_grad_with_argnums;

use super::feed::Feed;
use super::objective::{Objective, Scored};
use crate::kernels::graphs::Graphs;
use crate::models::LanguageModel;
use crate::params::{Tensors, set_parameters};
use crate::{Error, Result};

/// The loss of `feed`, and its gradient with respect to `parameters`, times the scale of the feed. The model holds
/// `parameters` afterwards as before.
///
/// # Errors
/// What MLX raises.
pub fn gradients(
    model: &mut dyn LanguageModel,
    parameters: &Tensors,
    objective: &Objective,
    feed: &Feed,
    graphs: &Graphs,
) -> Result<(Scored, Tensors)> {
    let count = parameters.len();
    let inputs: Vec<Array> = parameters.values().cloned().chain(feed.arrays()).collect();
    let variant = feed.variant(model);
    let outcome = graphs.call(&variant, &inputs, |inputs| {
        let (values, arrays) = inputs.split_at(count);
        let feed = feed.with_arrays(arrays);
        Feed::set_draws(Some(&feed), model).map_err(|error| Exception::custom(error.to_string()))?;
        let argnums: Vec<i32> = (0..count as i32).collect();
        // The gradient is that of the first output alone.
        let traced = |values: &[Array]| -> std::result::Result<Vec<Array>, Exception> {
            set_parameters(model, &parameters.keys().cloned().zip(values.iter().cloned()).collect())?;
            let Scored { loss, rewards } = objective.loss(model, &feed, true)?;
            Ok([loss].into_iter().chain(rewards).collect())
        };
        let (outputs, grads) = value_and_grad_with_argnums(traced, argnums.as_slice())(values)?;
        Ok(grads.into_iter().chain(outputs).collect())
    });
    // Tracing left placeholders in the model.
    Feed::set_draws(None, model)?;
    set_parameters(model, parameters)?;
    let mut grads = outcome?;
    let mut outputs = grads.split_off(count.min(grads.len())).into_iter();
    let loss = outputs.next().ok_or_else(|| Error::Training("the loss has no value".into()))?;
    let loss = loss.divide(Array::from_f32(feed.scale.unwrap_or(1.0)))?;
    let scored = Scored { loss, rewards: outputs.next() };
    Ok((scored, parameters.keys().cloned().zip(grads).collect()))
}

/// What gradients of norm `norm` are multiplied with so that it is at most `max_norm` (0: left alone), as
/// [gradient clipping](https://arxiv.org/abs/1211.5063) does; unevaluated.
///
/// # Errors
/// What MLX raises.
pub fn clip_factor(norm: &Array, max_norm: f32) -> Result<Array> {
    if max_norm <= 0.0 {
        return Ok(Array::from_f32(1.0));
    }
    let factor = Array::from_f32(max_norm).divide(norm.add(Array::from_f32(1e-6))?)?;
    Ok(minimum(factor, Array::from_f32(1.0))?)
}
