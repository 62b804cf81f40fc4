//! Turning trained adapters into the form that is saved and used for inference.

use std::collections::BTreeMap;

use mlx_rs::Array;

use crate::nn::{Linear, Network};
use crate::{Result, kernels};

/// Reduces every adapter of `model` to plain matrices `A` and `B`, with magnitudes if it has any; layers of
/// `AdaLoRA` get a common rank. Returns the ranks by key path if they differ, for `AdaLoRA` the non-zero
/// ones.
///
/// # Errors
/// Errors from MLX.
pub fn finalize(model: &mut dyn Network) -> Result<BTreeMap<String, u32>> {
    let pattern = singular_ranks(model)?;
    let most = pattern.values().max().copied();
    model.visit_linears(&mut |_, layer| {
        if let Some(most) = most {
            truncate_rank(layer, most)?;
        }
        layer.merge_parts()?;
        let parts = layer.lora_a.iter().chain(layer.lora_b.iter());
        kernels::eval(parts)?;
        layer.cache_row_norms()
    })?;
    if most.is_some() { Ok(pattern) } else { differing(model) }
}

/// Number of non-zero singular values by key path.
///
/// # Errors
/// Errors from MLX.
fn singular_ranks(model: &mut dyn Network) -> Result<BTreeMap<String, u32>> {
    let mut ranks = BTreeMap::new();
    model.visit_linears(&mut |path, layer| {
        if let Some(e) = &*layer.lora_e {
            kernels::eval([e])?;
            let left = e.as_slice::<f32>().iter().filter(|&&e| e != 0.0).count();
            ranks.insert(path.to_owned(), left as u32);
        }
        Ok(())
    })?;
    Ok(ranks)
}

/// Keeps `most` ranks of `layer`, those with non-zero singular values first.
///
/// # Errors
/// Errors from MLX.
fn truncate_rank(layer: &mut Linear, most: u32) -> Result<()> {
    let (Some(a), Some(e), Some(b)) = (&*layer.lora_a, &*layer.lora_e, &*layer.lora_b) else { return Ok(()) };
    let values = e.as_slice::<f32>();
    let (left, gone): (Vec<u32>, Vec<u32>) =
        (0..values.len() as u32).partition(|&i| values[i as usize] != 0.0);
    let order: Vec<u32> = left.into_iter().chain(gone).take(most as usize).collect();
    let order = Array::from_slice(&order, &[order.len() as i32]);
    let [a, e, b] = [a.take_axis(&order, 1)?, e.take_axis(&order, 0)?, b.take_axis(&order, 0)?];
    (*layer.lora_a, *layer.lora_e, *layer.lora_b) = (Some(a), Some(e), Some(b));
    Ok(())
}

/// Ranks of the adapters of `model` by key path, if they differ.
///
/// # Errors
/// Only those of [`Network::visit_linears`].
fn differing(model: &mut dyn Network) -> Result<BTreeMap<String, u32>> {
    let mut ranks = BTreeMap::new();
    model.visit_linears(&mut |path, layer| {
        if let Some(b) = &*layer.lora_b {
            ranks.insert(path.to_owned(), b.dim(0) as u32);
        }
        Ok(())
    })?;
    let is_uniform = ranks.values().min() == ranks.values().max();
    Ok(if is_uniform { BTreeMap::new() } else { ranks })
}
