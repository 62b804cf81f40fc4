//! From adapters that were trained to what is saved and used.

use std::collections::BTreeMap;

use mlx_rs::Array;

use crate::nn::{Linear, Network};
use crate::{Result, kernels};

/// Makes of trained adapters what is saved and used: plain matrices `A` and `B`, with magnitudes where there are any,
/// those of `AdaLoRA` of one rank. Returns the ranks of the layers where they differ, of `AdaLoRA` those that are left.
///
/// # Errors
/// What MLX raises.
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

/// RankPattern of which the singular value is not zero, by layer.
///
/// # Errors
/// What MLX raises.
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

/// Leaves the first `most` ranks of `layer`, those that are not zero before those that are.
///
/// # Errors
/// What MLX raises.
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

/// RankPattern of the adapters on `model` by layer, where they differ.
///
/// # Errors
/// None of its own.
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
