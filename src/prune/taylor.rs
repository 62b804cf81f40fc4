//! First-order Taylor importance ([Molchanov et al.](https://arxiv.org/abs/1906.10771), applied to language models by
//! [LLM-Pruner](https://arxiv.org/abs/2305.11627)): without a weight `w`, the loss `L` changes by about `−w · ∂L/∂w`, and
//! without several, by the sum over them. The size of the change is averaged over sequences:
//!
//! ```text
//! importance = mean over sequences of |Σ w · ∂L/∂w|
//! ```
//!
//! Both are of the original model: all gradients of a sequence are in memory together.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use mlx_rs::{Array, Dtype};

use super::progress::progress;
use crate::data::{Sample, collate};
use crate::kernels::graphs::Graphs;
use crate::models::Model;
use crate::progress::Observer;
use crate::train::gradients::loss_scale::LossScale;
use crate::train::gradients::{gradients, inputs};
use crate::train::task::{ForwardOptions, Task as _};
use crate::train::text::objective::Objective;
use crate::train::text::task::TextTask;
use crate::{Error, Result, kernels, params};

/// Importance of every weight of some layers, by key path.
pub(super) type Importance = BTreeMap<String, Vec<f32>>;

/// Importance of every weight of the layers at `paths`.
///
/// # Errors
/// Gradients that are not finite; errors from MLX; [`Error::Interrupted`].
pub(super) fn importance(
    model: &mut Model,
    paths: &[String],
    sequences: &[Vec<u32>],
    observer: &mut dyn Observer,
) -> Result<Importance> {
    let mut sums: BTreeMap<String, Array> = BTreeMap::new();
    for_each_change(model, paths, sequences, observer, &mut |path, change| {
        let sum = match sums.get(path) {
            Some(sum) => sum.add(change.abs()?)?,
            None => change.abs()?,
        };
        kernels::eval([&sum])?;
        sums.insert(path.to_owned(), sum);
        Ok(())
    })?;
    let mut found = Importance::new();
    // One after the other, so that each sum goes before the next is copied.
    while let Some((path, sum)) = sums.pop_first() {
        found.insert(path, sum.as_slice::<f32>().to_vec());
    }
    Ok(found)
}

/// Importance of the units whose outputs the layers `readers` read, by key path: each reads as many inputs per unit.
///
/// # Errors
/// As [`importance`].
pub(super) fn importance_of_units(
    model: &mut Model,
    readers: &BTreeMap<String, usize>,
    sequences: &[Vec<u32>],
    observer: &mut dyn Observer,
) -> Result<Importance> {
    let paths: Vec<String> = readers.keys().cloned().collect();
    let mut found = Importance::new();
    for_each_change(model, &paths, sequences, observer, &mut |path, change| {
        let columns = change.sum_axis(0, false)?;
        kernels::eval([&columns])?;
        let units =
            columns.as_slice::<f32>().chunks_exact(readers[path]).map(|unit| unit.iter().sum::<f32>());
        let sums = found.entry(path.to_owned()).or_insert_with(|| vec![0.0; units.len()]);
        sums.iter_mut().zip(units).for_each(|(sum, change)| *sum += change.abs());
        Ok(())
    })?;
    Ok(found)
}

/// Calls `see` with `w · ∂L/∂w` of every layer at `paths`, `[out, in]` in f32, for the mean loss of each of `sequences`.
///
/// # Errors
/// Errors of `see`; gradients that are not finite; errors from MLX; [`Error::Interrupted`].
pub(super) fn for_each_change(
    model: &mut Model,
    paths: &[String],
    sequences: &[Vec<u32>],
    observer: &mut dyn Observer,
    see: &mut dyn FnMut(&str, &Array) -> Result<()>,
) -> Result<()> {
    let names: Vec<String> = paths.iter().map(|path| format!("{path}.weight")).collect();
    let parameters = params::parameters(model, &names)?;
    let task = TextTask { objective: Objective::Sft, neftune_alpha: None, pad_id: 0 };
    let scale = (model.dtype() == Dtype::Float16).then(|| LossScale::default().scale);
    let options = ForwardOptions { loss_scale: scale, ..ForwardOptions::default() };
    let unscaled = Array::from_f32(scale.map_or(1.0, f32::recip));
    let graphs = Graphs::default();
    for (done, ids) in sequences.iter().enumerate() {
        let sample = Sample::new(ids.clone(), |_| true);
        let batch = collate(&[&sample], ids.len(), 0);
        let inputs = inputs(&task, model, &batch, task.totals(&batch), &options)?;
        let (_, grads) = gradients(&task, model, &parameters, &inputs, &graphs)?;
        for (path, name) in paths.iter().zip(&names) {
            let change = grads[name].multiply(&parameters[name])?.multiply(&unscaled)?;
            let total = change.abs()?.sum(None)?;
            kernels::eval([&change, &total])?;
            if !total.item_exact::<f32>().is_finite() {
                return Err(Error::Training(format!(
                    "the gradient of {path} is not finite; check the model and the calibration text"
                )));
            }
            see(path, &change)?;
            if observer.poll() == ControlFlow::Break(()) {
                return Err(Error::Interrupted);
            }
        }
        progress(observer, "gradients", done + 1, sequences.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use serde_json::json;

    use super::*;
    use crate::calibrate::with_weight;
    use crate::models;
    use crate::progress::Silent;

    #[test]
    fn changes_of_the_loss_are_those_of_finite_differences() {
        let config = json!({
            "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "vocab_size": 40, "tie_word_embeddings": true
        });
        let mut model = models::create(&config).unwrap();
        models::initialize(model.as_mut(), 0.3, 1).unwrap();
        let ids: Vec<u32> = (0..24).map(|i| i * 7 % 40).collect();
        let loss = |model: &Model| {
            let row: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
            let logits = model.forward(&Array::from_slice(&row[..23], &[1, 23]), None).unwrap();
            let logs = logits.subtract(logits.logsumexp_axis(-1, true).unwrap()).unwrap();
            kernels::eval([&logs]).unwrap();
            let logs = logs.as_slice::<f32>();
            let of = |i: usize| f64::from(logs[i * 40 + ids[i + 1] as usize]);
            -(0..23).map(of).sum::<f64>() / 23.0
        };
        for path in ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj"] {
            let paths = [path.to_owned()];
            let mut found = Vec::new();
            for_each_change(model.as_mut(), &paths, from_ref(&ids), &mut Silent, &mut |_, change| {
                let columns = change.sum_axis(0, false)?;
                kernels::eval([&columns])?;
                found = columns.as_slice::<f32>().to_vec();
                Ok(())
            })
            .unwrap();
            let dense = with_weight(model.as_mut(), path, |weight| Ok(weight.weight.clone())).unwrap();
            for column in [0, 7, 30] {
                let mut slope = 0.0;
                for step in [1e-2_f32, -1e-2] {
                    let mut scales = vec![1.0_f32; dense.dim(1) as usize];
                    scales[column] += step;
                    let scaled = dense.multiply(Array::from_slice(&scales, &[1, dense.dim(1)])).unwrap();
                    let set = |array: Array| {
                        move |weight: crate::nn::quantized::WeightMut| {
                            *weight.weight = array;
                            Ok(())
                        }
                    };
                    with_weight(model.as_mut(), path, set(scaled)).unwrap();
                    slope += loss(model.as_ref()) / f64::from(2.0 * step);
                    with_weight(model.as_mut(), path, set(dense.clone())).unwrap();
                }
                let found = f64::from(found[column]);
                assert!(
                    (found - slope).abs() < 0.02 * slope.abs() + 2e-5,
                    "{path} {column}: {found} {slope}"
                );
            }
        }
        let paths = ["model.layers.0.mlp.up_proj".to_owned()];
        let other: Vec<u32> = ids.iter().map(|id| (id + 3) % 40).collect();
        let each = |sequences: &[Vec<u32>], model: &mut Model| {
            importance(model, &paths, sequences, &mut Silent).unwrap().remove(&paths[0]).unwrap()
        };
        let (one, two) = (each(from_ref(&ids), model.as_mut()), each(from_ref(&other), model.as_mut()));
        let both = each(&[ids.clone(), other], model.as_mut());
        assert!(both.iter().zip(one.iter().zip(&two)).all(|(sum, (a, b))| (sum - a - b).abs() < 1e-5));
    }
}
