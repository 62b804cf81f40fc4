//! Weights that a graph computes from parameters, in place of those that a model holds.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::overrides::Original;
use super::quantized::WeightMut;
use super::{Linear, Network, Result};

/// Calls `work` while the weights of `model` are the dense ones that `compute` returns, given key path and weight;
/// `None` leaves a weight as it is. Afterwards, all weights are the former ones.
///
/// # Errors
/// Errors of `compute` and `work`.
pub fn with_computed_weights<M: Network + ?Sized, T>(
    model: &mut M,
    compute: &mut dyn FnMut(&str, &WeightMut) -> Result<Option<Array>>,
    work: impl FnOnce(&mut M) -> Result<T>,
) -> Result<T> {
    let mut originals: BTreeMap<String, Original> = BTreeMap::new();
    let replaced = model.visit_quantizable(&mut |path, weight| {
        let Some(computed) = compute(path, &weight)? else { return Ok(()) };
        let original = Original {
            value: std::mem::replace(weight.weight, computed),
            scales: weight.scales.take(),
            biases: weight.biases.take(),
            format: weight.format.take(),
        };
        originals.insert(path.to_owned(), original);
        Ok(())
    });
    let outcome = replaced.map_err(exception).and_then(|()| work(model));
    let restore = &mut |path: &str, weight: WeightMut| {
        if let Some(Original { value, scales, biases, format }) = originals.remove(path) {
            (*weight.weight, *weight.scales, *weight.biases) = (value, scales, biases);
            *weight.format = format;
        }
        Ok(())
    };
    model.visit_quantizable(restore).map_err(exception)?;
    outcome
}

/// Calls `work` while the low-rank updates of `model` are part of its weights. Afterwards, they are updates again.
///
/// # Errors
/// A layer whose update [cannot be merged](Linear::merged); errors of `work`.
pub fn with_merged_updates<M: Network + ?Sized, T>(
    model: &mut M,
    work: impl FnOnce(&mut M) -> Result<T>,
) -> Result<T> {
    let mut originals: BTreeMap<String, Linear> = BTreeMap::new();
    let merged = model.visit_linears(&mut |path, layer| {
        if let Some(merged) = layer.merged()? {
            originals.insert(path.to_owned(), layer.clone());
            *layer.weight = merged;
            layer.remove_update();
        }
        Ok(())
    });
    let outcome = merged.map_err(exception).and_then(|()| work(model));
    let restore = &mut |path: &str, layer: &mut Linear| {
        if let Some(original) = originals.remove(path) {
            *layer = original;
        }
        Ok(())
    };
    model.visit_linears(restore).map_err(exception)?;
    outcome
}

fn exception(error: crate::Error) -> Exception {
    Exception::custom(error.to_string())
}
