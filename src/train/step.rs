//! One optimizer step: gradients of the micro-batches, clipping, update.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::transforms::value_and_grad_with_argnums;

use crate::data::Batch;
use crate::io::tensors::Tensors;
use crate::kernels::adamw::squared_norm;
use crate::kernels::cross_entropy::{Options, cross_entropy};
use crate::models::Model;
use crate::nn::Segments;
use crate::rng::{self, Purpose};
use crate::{Error, Result, kernels, nn};

/// A [`Batch`] as arrays.
struct Inputs {
    ids: Array,
    targets: Array,
    weights: Array,
    segments: Option<Segments>,
}

impl Inputs {
    fn new(batch: &Batch) -> nn::Result<Self> {
        let shape = [batch.rows as i32, batch.time as i32];
        let segments = batch.starts.as_ref().map(|starts| Segments::new(starts, shape[0], shape[1]));
        Ok(Self {
            ids: Array::from_slice(&batch.ids, &shape),
            targets: Array::from_slice(&batch.targets, &shape),
            weights: Array::from_slice(&batch.weights, &shape),
            segments: segments.transpose()?,
        })
    }

    fn loss(&self, model: &dyn Model, gradient: bool) -> nn::Result<Array> {
        let hidden = match &self.segments {
            Some(segments) => model.hidden_segmented(&self.ids, segments)?,
            None => model.hidden(&self.ids, None)?,
        };
        let options = Options { softcap: model.softcap(), gradient, ..Options::default() };
        cross_entropy(&hidden, &model.head(), &self.targets, &self.weights, options)
    }
}

/// Sum of the loss over the target tokens of `batch`, unevaluated.
///
/// # Errors
/// What MLX raises.
pub fn loss(model: &dyn Model, batch: &Batch) -> Result<Array> {
    Ok(Inputs::new(batch)?.loss(model, false)?)
}

/// Current values of the parameters called `names`.
pub fn parameters(model: &dyn Model, names: &[String]) -> Tensors {
    let all = model.parameters().flatten();
    names.iter().filter_map(|name| Some((name.clone(), (*all.get(name.as_str())?).clone()))).collect()
}

/// Puts `values` into `model`.
pub fn set_parameters(model: &mut dyn Model, values: &Tensors) {
    let mut all = model.parameters_mut().flatten();
    for (name, value) in values {
        if let Some(slot) = all.get_mut(name.as_str()) {
            **slot = value.clone();
        }
    }
}

/// Sum of the loss over the target tokens of `batch` divided by `tokens`, and its gradient
/// with respect to `parameters`. The model holds `parameters` afterwards as before.
///
/// # Errors
/// What MLX raises.
pub fn gradients(
    model: &mut dyn Model,
    parameters: &Tensors,
    batch: &Batch,
    tokens: f32,
) -> Result<(Array, Tensors)> {
    let inputs = Inputs::new(batch)?;
    let values: Vec<Array> = parameters.values().cloned().collect();
    let argnums: Vec<i32> = (0..values.len() as i32).collect();
    let traced = |arrays: &[Array]| -> std::result::Result<Vec<Array>, Exception> {
        set_parameters(model, &parameters.keys().cloned().zip(arrays.iter().cloned()).collect());
        Ok(vec![inputs.loss(model, true)?.divide(Array::from_f32(tokens))?])
    };
    let outcome = value_and_grad_with_argnums(traced, argnums.as_slice())(&values);
    // Tracing left placeholders in the model.
    set_parameters(model, parameters);
    let (mut loss, grads) = outcome?;
    let loss = loss.pop().ok_or_else(|| Error::Training("the loss has no value".into()))?;
    Ok((loss, parameters.keys().cloned().zip(grads).collect()))
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

/// Gives every adapter with dropout its mask for one micro-batch, or (`None`) turns dropout off.
///
/// # Errors
/// What MLX raises.
pub fn set_dropout(model: &mut dyn Model, draw: Option<(u64, u64)>) -> Result<()> {
    let mut layer = 0;
    model.visit_linears(&mut |_, linear| {
        layer += 1;
        linear.low_rank.dropout_key = match draw {
            Some((seed, micro)) if linear.low_rank.dropout > 0.0 => {
                Some(rng::key(seed, Purpose::Dropout, &[micro, layer])?)
            }
            _ => None,
        };
        Ok(())
    })
}
