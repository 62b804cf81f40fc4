//! Putting low-rank adapters onto the layers of a model ([LoRA](https://arxiv.org/abs/2106.09685)).

use std::collections::{BTreeMap, BTreeSet};

use mlx_rs::{Array, Dtype, random};

use super::config::{Method, TrainingConfig};
use super::method::LoraInit;
use super::pissa::Decomposition;
use super::ranks::Ranks;
use super::{adalora, pissa, ranks};
use crate::io::adapters::{is_adapter, split};
use crate::models::Model;
use crate::nn::{Linear, LowRank};
use crate::rng::{self, Purpose};
use crate::{Error, Result, kernels};

/// What adapters start from. None of them changes the model yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// `A ~ U(-1/√in, 1/√in)` and `B = 0`.
    Random,
    /// The same, with the lengths of the rows as magnitudes ([`DoRA`](crate::nn::dora)).
    Magnitude,
    /// `A, B ~ N(0, 0.02²)` and `E = 0` ([`AdaLoRA`](super::adalora)).
    Triplets,
    /// Principal parts of the matrices ([`PiSSA`](super::pissa)).
    Principal(Decomposition),
}

impl Start {
    fn of(config: &TrainingConfig) -> Self {
        match (config.method, config.lora_init) {
            (Method::Dora, _) => Self::Magnitude,
            (Method::Adalora, _) => Self::Triplets,
            (_, LoraInit::Pissa(decomposition)) => Self::Principal(decomposition),
            (_, LoraInit::Default) => Self::Random,
        }
    }
}

/// Removes every adapter, and virtual tokens.
///
/// # Errors
/// None of its own.
pub fn detach(model: &mut dyn Model) -> Result<()> {
    *model.prompt_mut() = None;
    model.visit_linears(&mut |_, layer| {
        (*layer.lora_a, *layer.lora_b, *layer.lora_e, *layer.m) = (None, None, None, None);
        layer.low_rank = LowRank::default();
        Ok(())
    })
}

/// Makes loaded adapters trainable: f32, with `dropout`.
///
/// # Errors
/// What MLX raises.
pub fn prepare(model: &mut dyn Model, dropout: f32) -> Result<()> {
    model.visit_linears(&mut |_, layer| {
        layer.low_rank.dropout = dropout;
        layer.low_rank.norms.factor = None;
        for slot in [&mut *layer.lora_a, &mut *layer.lora_b, &mut *layer.m].into_iter().flatten() {
            *slot = slot.as_dtype(Dtype::Float32)?;
        }
        Ok(())
    })
}

/// Makes of trained adapters what is saved and used: plain matrices `A` and `B`, with magnitudes where there are any,
/// those of `AdaLoRA` of one rank. Returns the ranks of the layers where they differ, of `AdaLoRA` those that are left.
///
/// # Errors
/// What MLX raises.
pub fn settle(model: &mut dyn Model) -> Result<BTreeMap<String, u32>> {
    let pattern = adalora::ranks(model)?;
    let most = pattern.values().max().copied();
    model.visit_linears(&mut |_, layer| {
        if let Some(most) = most {
            adalora::gather(layer, most)?;
        }
        layer.merge_parts()?;
        let parts = layer.lora_a.iter().chain(layer.lora_b.iter());
        kernels::eval(parts)?;
        layer.settle()
    })?;
    if most.is_some() { Ok(pattern) } else { ranks::differing(model) }
}

/// Adds the adapters that `config` describes, so that nothing changes yet.
///
/// # Errors
/// A module or a pattern that fits no layer; more blocks than the model has; a rank that a matrix does not have.
pub fn attach(model: &mut dyn Model, config: &TrainingConfig) -> Result<()> {
    let (modules, start) = (config.target_modules.as_deref(), Start::of(config));
    let first_block = first_block(model.num_layers(), config.num_layers)?;
    let mut ranks = Ranks::of(config)?;
    let mut available = BTreeSet::new();
    let mut matched = BTreeSet::new();
    let mut layer_index = 0;
    model.visit_linears(&mut |path, layer| {
        layer_index += 1;
        let Some((block, name)) = split(path) else { return Ok(()) };
        available.insert(name.to_owned());
        let target = modules.map(|names| names.iter().find(|&target| fits(name, target)));
        if let Some(Some(target)) = target {
            matched.insert(target.clone());
        }
        if block < first_block || target == Some(None) {
            return Ok(());
        }
        let rank = ranks.choose(path);
        if rank == 0 {
            return Ok(());
        }
        let key = rng::key(config.seed, Purpose::Adapter, &[layer_index])?;
        let (scale, dropout) = (config.scale(rank) as f32, config.lora_dropout as f32);
        layer.low_rank = LowRank { scale, dropout, ..LowRank::default() };
        fill(layer, rank as i32, start, &key)?;
        Ok(())
    })?;
    let unknown = modules.unwrap_or_default().iter().find(|&name| !matched.contains(name));
    if let Some(name) = unknown {
        let available: Vec<String> = available.into_iter().collect();
        return Err(Error::Config(format!(
            "target_modules names \"{name}\", which the model does not have; it has {}",
            available.join(", ")
        )));
    }
    ranks.check()
}

/// Gives `layer` the matrices it starts with.
fn fill(layer: &mut Linear, rank: i32, start: Start, key: &Array) -> Result<()> {
    let (inputs, outputs) = layer.size();
    match start {
        Start::Principal(decomposition) => pissa::attach(layer, rank, decomposition, key),
        Start::Triplets => {
            let (key_a, key_b) = random::split(key, 2)?;
            let normal = |shape: &[i32], key: &Array| random::normal::<f32>(shape, None, 0.02, key);
            *layer.lora_a = Some(normal(&[inputs, rank], &key_a)?);
            *layer.lora_b = Some(normal(&[rank, outputs], &key_b)?);
            *layer.lora_e = Some(Array::zeros::<f32>(&[rank])?);
            Ok(())
        }
        Start::Random | Start::Magnitude => {
            let bound = f64::from(inputs).sqrt().recip() as f32;
            *layer.lora_a = Some(random::uniform::<_, f32>(-bound, bound, &[inputs, rank], key)?);
            *layer.lora_b = Some(Array::zeros::<f32>(&[rank, outputs])?);
            if start == Start::Magnitude { layer.open_magnitude() } else { Ok(()) }
        }
    }
}

/// Sorted names of all adapter parameters.
#[must_use]
pub fn parameter_names(model: &dyn Model) -> Vec<String> {
    let mut names: Vec<String> = model
        .parameters()
        .flatten()
        .keys()
        .map(ToString::to_string)
        .filter(|name| is_adapter(name))
        .collect();
    names.sort();
    names
}

/// Whether `target` is `name` or its last parts.
fn fits(name: &str, target: &str) -> bool {
    name.strip_suffix(target).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

fn first_block(blocks: usize, last: Option<u32>) -> Result<usize> {
    let Some(last) = last else { return Ok(0) };
    blocks
        .checked_sub(last as usize)
        .ok_or_else(|| Error::Config(format!("num_layers is {last}, but the model has only {blocks} layers")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_match_whole_parts_of_a_path() {
        assert_eq!(split("model.layers.12.mlp.up_proj"), Some((12, "mlp.up_proj")));
        assert!(fits("self_attn.q_proj", "q_proj"));
        assert!(fits("self_attn.q_proj", "self_attn.q_proj"));
        assert!(!fits("self_attn.q_proj", "proj"));
        assert!(!fits("mlp.up_proj", "q_proj"));
    }

    #[test]
    fn last_blocks_are_counted_from_the_end() {
        assert_eq!(first_block(4, None).unwrap(), 0);
        assert_eq!(first_block(4, Some(1)).unwrap(), 3);
        assert!(first_block(4, Some(5)).unwrap_err().to_string().contains("only 4 layers"));
    }
}
