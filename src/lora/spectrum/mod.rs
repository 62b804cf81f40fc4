//! Singular values of the gradient of each matrix, without computing the gradient itself: a [randomized singular
//! value decomposition](https://arxiv.org/abs/0909.4061) by the gradients of wide adapters.
//!
//! ```text
//! y = x·Wᵀ + (x·A)·B      G = ∂L/∂W
//! A ~ N(0, 1), B = 0      (∂L/∂B)ᵀ = G·A = Y      Q = basis of Y
//! A = 0, B = Qᵀ           ∂L/∂A = Gᵀ·Q            σ = singular values of Gᵀ·Q
//! ```
//!
//! | operand | shape |
//! |---|---|
//! | `W`, `G` | `[out, in]`, frozen, dense or quantized |
//! | `A`, `B` | `[in, width]`, `[width, out]` |
//! | `Q` | `[out, width]`, orthonormal columns |
//!
//! The gradient is that of the mean loss over all batches, which pass through the model twice. `σ` are the
//! singular values of the projection of `G` onto `Q`: never too large, almost exact for the largest ones, and
//! exact if `width` is at least the rank of `G`.

use std::ops::ControlFlow;

use mlx_rs::linalg::qr;
use mlx_rs::{Array, Device, Dtype, random, with_device};
use serde::Serialize;

use super::config::{LoraInit, Method, TrainingConfig};
use crate::adapters::{attach, pissa};
use crate::data::Batch;
use crate::kernels::graphs::Graphs;
use crate::models::Model;
use crate::params::{self, Tensors};
use crate::progress::Observer;
use crate::rng::{self, Purpose};
use crate::train::gradients::loss_scale::LossScale;
use crate::train::gradients::{gradients, inputs};
use crate::train::task::{ForwardOptions, Task as _, Totals};
use crate::train::text::objective::Objective;
use crate::train::text::task::TextTask;
use crate::{Error, Result, kernels};

const A: &str = ".lora_a";
const B: &str = ".lora_b";

/// The gradient of one matrix, of the loss in nats per target token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spectrum {
    /// Key path of the layer.
    pub path: String,
    /// Columns of the matrix.
    pub inputs: i32,
    /// Rows of the matrix.
    pub outputs: i32,
    /// The largest singular values, in descending order.
    pub singular_values: Vec<f64>,
    /// The sum of their squares.
    pub energy: f64,
    /// `energy / σ₁²`: how many directions as strong as the first would hold all of it.
    pub stable_rank: f64,
    /// `exp(-Σ pᵢ ln pᵢ)` with `pᵢ = σᵢ / Σσ` ([effective rank](https://doi.org/10.5281/zenodo.40328)).
    pub effective_rank: f64,
}

impl Spectrum {
    fn new(path: String, (inputs, outputs): (i32, i32), singular_values: Vec<f64>) -> Self {
        let energy: f64 = singular_values.iter().map(|sigma| sigma * sigma).sum();
        let first = singular_values.first().copied().unwrap_or(0.0);
        let sum: f64 = singular_values.iter().sum();
        let entropy: f64 = singular_values
            .iter()
            .map(|sigma| sigma / sum)
            .filter(|&share| share > 0.0)
            .map(|share| -share * share.ln())
            .sum();
        let has_direction = first > 0.0;
        Self {
            path,
            inputs,
            outputs,
            singular_values,
            energy,
            stable_rank: if has_direction { energy / (first * first) } else { 0.0 },
            effective_rank: if has_direction { entropy.exp() } else { 0.0 },
        }
    }
}

/// Computes the gradient spectra of the layers adapted by `config`, in the order of the model, with adapters of
/// rank `width`. Removes all adapters of the model.
///
/// # Errors
/// Layers that the model does not have; gradients that are not finite; [`Error::Interrupted`].
pub fn gradient_spectra(
    model: &mut Model,
    batches: &[Batch],
    config: &TrainingConfig,
    width: u32,
    observer: &mut dyn Observer,
) -> Result<Vec<Spectrum>> {
    let wide = TrainingConfig {
        method: Method::Lora,
        lora_rank: width,
        lora_alpha: width.into(),
        rank_pattern: None,
        use_rslora: false,
        lora_dropout: 0.0,
        lora_init: LoraInit::Default,
        ..config.clone()
    };
    attach::detach(model)?;
    attach::attach(model, &wide.adapter_settings())?;
    let found = sketch(model, batches, config.seed, observer);
    attach::detach(model)?;
    found
}

/// Computes the spectra with the adapters on `model`, whose matrices are replaced.
fn sketch(
    model: &mut Model,
    batches: &[Batch],
    seed: u64,
    observer: &mut dyn Observer,
) -> Result<Vec<Spectrum>> {
    let mut layers = Vec::new();
    model.visit_linears(&mut |path, layer| {
        if let Some(width) = (*layer.lora_a).as_ref().map(|a| a.dim(1)) {
            let (inputs, outputs) = layer.size();
            let width = width.min(inputs).min(outputs);
            let key = rng::key(seed, Purpose::Sketch, &[layers.len() as u64])?;
            *layer.lora_a = Some(random::normal::<f32>(&[inputs, width], None, None, &key)?);
            *layer.lora_b = Some(Array::zeros::<f32>(&[width, outputs])?);
            layers.push((path.to_owned(), (inputs, outputs), width));
        }
        Ok(())
    })?;
    let names = |slot: &str| layers.iter().map(|(path, ..)| format!("{path}{slot}")).collect::<Vec<_>>();
    let sketches = mean_gradient(model, &names(B), batches, observer)?;
    let mut rotated = Tensors::new();
    for (path, (inputs, _), width) in &layers {
        let (q, _) = with_device(Device::cpu(), || qr(sketches[&format!("{path}{B}")].t()))?;
        rotated.insert(format!("{path}{B}"), q.t().contiguous()?);
        rotated.insert(format!("{path}{A}"), Array::zeros::<f32>(&[*inputs, *width])?);
    }
    kernels::eval(rotated.values())?;
    params::set_parameters(model, &rotated)?;
    let projected = mean_gradient(model, &names(A), batches, observer)?;
    let spectrum = |(path, size, _): (String, (i32, i32), i32)| {
        let [_, sigma, _] = pissa::thin_svd(&projected[&format!("{path}{A}")])?;
        kernels::eval([&sigma])?;
        let sigma: Vec<f64> = sigma.as_slice::<f32>().iter().map(|&sigma| sigma.into()).collect();
        if sigma.iter().any(|sigma| !sigma.is_finite()) {
            return Err(Error::Training(format!(
                "the gradient of {path} is not finite; check the weights and data for values that are not"
            )));
        }
        Ok(Spectrum::new(path, size, sigma))
    };
    layers.into_iter().map(spectrum).collect()
}

/// Computes the gradient of the mean loss per target token over all `batches`, with respect to the parameters
/// `names`.
fn mean_gradient(
    model: &mut Model,
    names: &[String],
    batches: &[Batch],
    observer: &mut dyn Observer,
) -> Result<Tensors> {
    let parameters = params::parameters(model, names)?;
    // Batches have their shapes already, so nothing is padded.
    let task = TextTask { objective: Objective::Sft, neftune_alpha: None, pad_id: 0 };
    let totals = batches.iter().fold(Totals::default(), |sum, batch| sum + task.totals(batch));
    let scale = (model.dtype() == Dtype::Float16).then(|| LossScale::default().scale);
    let graphs = Graphs::default();
    let mut sum = None;
    for batch in batches {
        if observer.poll() == ControlFlow::Break(()) {
            return Err(Error::Interrupted);
        }
        let inputs = inputs(
            &task,
            model,
            batch,
            totals,
            &ForwardOptions { loss_scale: scale, ..ForwardOptions::default() },
        )?;
        let (_, grads) = gradients(&task, model, &parameters, &inputs, &graphs)?;
        let grads = params::accumulate(sum, grads)?;
        kernels::eval(grads.values())?;
        sum = Some(grads);
    }
    let mut grads = sum.unwrap_or_default();
    if let Some(scale) = scale {
        for grad in grads.values_mut() {
            *grad = grad.divide(Array::from_f32(scale))?;
        }
    }
    Ok(grads)
}

#[cfg(test)]
mod tests;
