//! Loss and gradients of a batch.

pub mod clipping;
mod dropout;
pub mod loss_scale;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::transforms::value_and_grad_with_argnums;

use crate::kernels::graphs::Graphs;
use crate::params::{Tensors, set_parameters};
use crate::train::task::inputs::Inputs;
use crate::train::task::{ForwardOptions, Loss, Task, Totals};
use crate::{Error, Result};

/// Name of the dropout keys among the inputs.
const DROPOUT: &str = "dropout_keys";

/// Converts `batch` to arrays, including the dropout keys of `options`.
///
/// # Errors
/// Those of [`Task::inputs`]; errors from MLX.
pub fn inputs<T: Task>(
    task: &T,
    model: &mut T::Model,
    batch: &T::Batch,
    totals: Totals,
    options: &ForwardOptions,
) -> Result<Inputs> {
    let mut inputs = task.inputs(model, batch, totals, options)?;
    if let Some(keys) = dropout::keys(model, options)? {
        inputs.insert(DROPOUT, keys);
    }
    Ok(inputs)
}

/// Computes the loss of `inputs` and its gradient with respect to `parameters`, multiplied by the scale of
/// `inputs`. The parameters of `model` do not change.
///
/// # Errors
/// Errors from MLX.
pub fn gradients<T: Task>(
    task: &T,
    model: &mut T::Model,
    parameters: &Tensors,
    inputs: &Inputs,
    graphs: &Graphs,
) -> Result<(Loss, Tensors)> {
    let count = parameters.len();
    let arrays: Vec<Array> = parameters.values().chain(inputs.arrays()).cloned().collect();
    let outcome = graphs.call(&inputs.graph_key(), &arrays, |arrays| {
        let (values, arrays) = arrays.split_at(count);
        let inputs = inputs.with_arrays(arrays);
        dropout::set_keys(model, inputs.find(DROPOUT))
            .map_err(|error| Exception::custom(error.to_string()))?;
        let argnums: Vec<i32> = (0..count as i32).collect();
        // The gradient is that of the first output alone.
        let traced = |values: &[Array]| -> Result<Vec<Array>, Exception> {
            set_parameters(model, &parameters.keys().cloned().zip(values.iter().cloned()).collect())?;
            let Loss { value, rewards } = task.loss(model, &inputs, true)?;
            Ok([value].into_iter().chain(rewards).collect())
        };
        let (outputs, grads) = value_and_grad_with_argnums(traced, argnums.as_slice())(values)?;
        Ok(grads.into_iter().chain(outputs).collect())
    });
    // Tracing left placeholders in the model.
    dropout::set_keys(model, None)?;
    set_parameters(model, parameters)?;
    let mut grads = outcome?;
    let mut outputs = grads.split_off(count.min(grads.len())).into_iter();
    let value = outputs.next().ok_or_else(|| Error::Training("the loss has no value".into()))?;
    let value = value.divide(Array::from_f32(inputs.scale.unwrap_or(1.0)))?;
    let loss = Loss { value, rewards: outputs.next() };
    Ok((loss, parameters.keys().cloned().zip(grads).collect()))
}
