//! Adding new low-rank adapters to the layers of a network ([LoRA](https://arxiv.org/abs/2106.09685)).

use std::collections::BTreeSet;

use indexmap::IndexMap;
use mlx_rs::{Array, Dtype, random};

use super::names::{ends_with, is_adapter_parameter, layer_names, num_blocks, split_block};
use super::pissa::{self, SvdMethod};
use super::ranks::RankPattern;
use super::whole;
use crate::models::Model;
use crate::nn::{Linear, LowRank, Network};
use crate::rng::{self, Purpose};
use crate::{Error, Result};

/// Initial values of an adapter. All of them leave the outputs of the network unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// `A ~ U(-1/√in, 1/√in)` and `B = 0`.
    Lora,
    /// As `Lora`, with the row norms of the weight as magnitudes ([`DoRA`](crate::nn::linear::dora)).
    Dora,
    /// `A, B ~ N(0, 0.02²)` and `E = 0` ([AdaLoRA](https://arxiv.org/abs/2303.10512)).
    AdaLora,
    /// Principal singular vectors of the weight ([`PiSSA`](super::pissa)).
    Pissa(SvdMethod),
}

/// Scaling factor of a low-rank update as a function of its rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// `alpha / rank`.
    Rank,
    /// `alpha / √rank` ([rsLoRA](https://arxiv.org/abs/2312.03732)), which keeps the magnitude of outputs
    /// independent of the rank.
    SqrtRank,
    /// `alpha / (rank + 1e-5)`, as PEFT's `AdaLoRA`.
    SingularValues,
}

impl Scaling {
    /// Returns the scaling factor of an update of rank `rank`.
    #[must_use]
    pub fn factor(self, alpha: f64, rank: u32) -> f64 {
        let rank = f64::from(rank);
        match self {
            Self::Rank => alpha / rank,
            Self::SqrtRank => alpha / rank.sqrt(),
            Self::SingularValues => alpha / (rank + 1e-5),
        }
    }
}

/// Which layers get an adapter, and its initial values.
#[derive(Debug, Clone)]
pub struct AdapterSettings<'a> {
    /// Trailing parts of the key paths of adapted layers, such as `q_proj`; `None` for all layers but the output head.
    /// `lm_head` is adapted if it is named, whatever `num_layers` is.
    pub target_modules: Option<&'a [String]>,
    /// Adapt only the last `num_layers` blocks; `None` for all.
    pub num_layers: Option<u32>,
    /// Rank of layers not matched by `rank_pattern`.
    pub rank: u32,
    /// Ranks by name or pattern; 0 for no adapter.
    pub rank_pattern: Option<&'a IndexMap<String, u32>>,
    /// Numerator of the scaling factor.
    pub alpha: f64,
    /// How the scaling factor follows from `alpha` and the rank.
    pub scaling: Scaling,
    /// Dropout probability of the adapter inputs during training.
    pub dropout: f32,
    /// Initial values.
    pub init: Init,
    /// Seed of random initial values.
    pub seed: u64,
}

/// Removes all adapters and the soft prompt of a language model.
///
/// # Errors
/// Only those of [`Network::visit_linears`].
pub fn detach(model: &mut Model) -> Result<()> {
    *model.prompt_mut() = None;
    detach_adapters(model)
}

/// Removes all low-rank adapters and the whole modules beside them.
///
/// # Errors
/// Only those of [`Network::visit_linears`].
pub fn detach_adapters(model: &mut dyn Network) -> Result<()> {
    clear_low_rank(model)?;
    whole::restore(model)
}

/// Empties the low-rank slots of all layers.
pub(super) fn clear_low_rank(model: &mut dyn Network) -> Result<()> {
    model.visit_linears(&mut |_, layer| {
        layer.remove_update();
        Ok(())
    })
}

/// Prepares attached adapters for training: casts them to float32 and sets their dropout probability.
///
/// # Errors
/// Errors from MLX.
pub fn make_trainable(model: &mut dyn Network, dropout: f32) -> Result<()> {
    model.visit_linears(&mut |_, layer| {
        layer.low_rank.dropout = dropout;
        layer.low_rank.norms.factor = None;
        for slot in [&mut *layer.lora_a, &mut *layer.lora_b, &mut *layer.m].into_iter().flatten() {
            *slot = slot.as_dtype(Dtype::Float32)?;
        }
        Ok(())
    })
}

/// Attaches new adapters to the layers selected by `settings`. The outputs of `model` do not change.
///
/// # Errors
/// A target module or rank pattern that matches no layer, more blocks than the model has, or a rank that a
/// weight does not have.
pub fn attach(model: &mut dyn Network, settings: &AdapterSettings) -> Result<()> {
    let modules = settings.target_modules;
    if modules.is_some_and(|names| names.iter().any(|name| name == whole::HEAD)) {
        model.set_head_adaptable(true);
    }
    let first_block = match settings.num_layers {
        Some(last) => Some(first_block(num_blocks(&layer_names(model)?), last)?),
        None => None,
    };
    let mut ranks = RankPattern::new(settings.rank, settings.rank_pattern)?;
    let mut available = BTreeSet::new();
    let mut matched = BTreeSet::new();
    let mut layer_index = 0;
    model.visit_linears(&mut |path, layer| {
        layer_index += 1;
        let (block, name) = split_block(path).map_or((None, path), |(block, name)| (Some(block), name));
        available.insert(name.to_owned());
        let target = modules.map(|names| names.iter().find(|&target| ends_with(name, target)));
        if let Some(Some(target)) = target {
            matched.insert(target.clone());
        }
        // A layer outside of the blocks counts if it is named.
        let is_left_out = block < first_block && (block.is_some() || modules.is_none());
        if is_left_out || target == Some(None) {
            return Ok(());
        }
        let rank = ranks.rank_of(path)?;
        if rank == 0 {
            return Ok(());
        }
        let key = rng::key(settings.seed, Purpose::Adapter, &[layer_index])?;
        let scale = settings.scaling.factor(settings.alpha, rank) as f32;
        layer.low_rank = LowRank { scale, dropout: settings.dropout, ..LowRank::default() };
        initialize(layer, rank as i32, settings.init, &key)
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

/// Sets the initial values of the adapter of `layer`.
fn initialize(layer: &mut Linear, rank: i32, init: Init, key: &Array) -> Result<()> {
    let (inputs, outputs) = layer.size();
    match init {
        Init::Pissa(decomposition) => pissa::initialize(layer, rank, decomposition, key),
        Init::AdaLora => {
            let (key_a, key_b) = random::split(key, 2)?;
            let normal = |shape: &[i32], key: &Array| random::normal::<f32>(shape, None, 0.02, key);
            *layer.lora_a = Some(normal(&[inputs, rank], &key_a)?);
            *layer.lora_b = Some(normal(&[rank, outputs], &key_b)?);
            *layer.lora_e = Some(Array::zeros::<f32>(&[rank])?);
            Ok(())
        }
        Init::Lora | Init::Dora => {
            let bound = f64::from(inputs).sqrt().recip() as f32;
            *layer.lora_a = Some(random::uniform::<_, f32>(-bound, bound, &[inputs, rank], key)?);
            *layer.lora_b = Some(Array::zeros::<f32>(&[rank, outputs])?);
            if init == Init::Dora { layer.init_magnitude() } else { Ok(()) }
        }
    }
}

/// Returns the sorted names of all adapter parameters of `model`.
#[must_use]
pub fn parameter_names(model: &dyn Network) -> Vec<String> {
    let mut names: Vec<String> = model
        .parameters()
        .flatten()
        .keys()
        .map(ToString::to_string)
        .filter(|name| is_adapter_parameter(name))
        .collect();
    names.sort();
    names
}

fn first_block(blocks: usize, last: u32) -> Result<usize> {
    blocks
        .checked_sub(last as usize)
        .ok_or_else(|| Error::Config(format!("num_layers is {last}, but the model has only {blocks} layers")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_match_whole_parts_of_a_path() {
        assert_eq!(split_block("model.layers.12.mlp.up_proj"), Some((12, "mlp.up_proj")));
        assert!(ends_with("self_attn.q_proj", "q_proj"));
        assert!(ends_with("self_attn.q_proj", "self_attn.q_proj"));
        assert!(!ends_with("self_attn.q_proj", "proj"));
        assert!(!ends_with("mlp.up_proj", "q_proj"));
    }

    #[test]
    fn last_blocks_are_counted_from_the_end() {
        assert_eq!(first_block(4, 4).unwrap(), 0);
        assert_eq!(first_block(4, 1).unwrap(), 3);
        assert!(first_block(4, 5).unwrap_err().to_string().contains("only 4 layers"));
    }
}
