//! Mixture-of-experts architectures: settings of the router, and checkpoints with stacked experts.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::stack;
use serde::Deserialize;
use serde_json::Value;

use super::checkpoint_layout::NamedTensors;
use super::configuration::Shape;
use crate::io::config;
use crate::nn;
use crate::nn::moe::{Routing, Scoring};
use crate::params::Tensors;
use crate::{Error, Result};

/// Largest number of experts in all layers; real models have a few ten thousand.
const MAX: usize = 1 << 17;

#[derive(Debug, Clone, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the keys of a config.json")]
struct File {
    num_experts: Option<i64>,
    num_local_experts: Option<i64>,
    num_experts_per_tok: Option<i64>,
}

/// Returns the number of experts and a softmax [`Routing`]. `defaults` are the number of experts and of
/// experts per token.
///
/// # Errors
/// A value out of range.
pub(super) fn routing(json: &Value, shape: &Shape, defaults: (i64, i64)) -> Result<(i32, Routing)> {
    let file: File = config::parse(json)?;
    let experts = file.num_experts.or(file.num_local_experts).unwrap_or(defaults.0);
    let experts = config::size("num_experts", experts, 1 << 14)?;
    if shape.layers * experts as usize > MAX {
        return Err(Error::ModelLoading(format!(
            "\"num_experts\" is {experts} in each of {} layers, more than {MAX} in all",
            shape.layers
        )));
    }
    let top_k = file.num_experts_per_tok.unwrap_or(defaults.1);
    let top_k = config::size("num_experts_per_tok", top_k, experts)? as usize;
    Ok((experts, Routing { top_k, scoring: Scoring::Softmax, normalized: true, scale: 1.0 }))
}

/// Splits a tensor of all experts, `[experts, ...]`, into one tensor per expert:
/// `a.{stacked}.gate_proj.weight` becomes `a.experts.{i}.gate_proj.weight`. `names` maps the names of layers.
/// Other tensors are returned unchanged.
///
/// # Errors
/// A tensor without dimensions.
pub(super) fn unstack(
    name: &str,
    tensor: Array,
    stacked: &str,
    names: &[(&str, &str)],
) -> nn::Result<NamedTensors> {
    let Some((before, after)) = name.split_once(&format!(".{stacked}.")) else {
        return Ok(vec![(name.to_owned(), tensor)]);
    };
    // Already apart: `experts.3.gate_proj.weight`.
    if after.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(vec![(name.to_owned(), tensor)]);
    }
    let (layer, leaf) = after.split_once('.').unwrap_or((after, ""));
    let layer = names.iter().find(|(theirs, _)| *theirs == layer).map_or(layer, |(_, ours)| ours);
    let parts = split_experts(&tensor)?.into_iter().enumerate();
    Ok(parts.map(|(i, part)| (format!("{before}.experts.{i}.{layer}.{leaf}"), part)).collect())
}

/// As [`unstack`] for the stacks of MLX, `switch_mlp`, and for those of transformers 5, which have the gates of an
/// expert above its other inputs: `a.experts.gate_up_proj`, `[experts, 2 · intermediate, hidden]`, and
/// `a.experts.down_proj`, `[experts, hidden, intermediate]`.
///
/// # Errors
/// A stack of an unexpected shape.
pub(super) fn split(name: &str, tensor: Array, names: &[(&str, &str)]) -> nn::Result<NamedTensors> {
    let Some((path, layer @ ("gate_up_proj" | "down_proj"))) = name.split_once(".experts.") else {
        return unstack(name, tensor, "switch_mlp", names);
    };
    if tensor.ndim() != 3 {
        return Err(Exception::custom(format!("shape {:?}, expected three dimensions", tensor.shape())));
    }
    let mut mapped = NamedTensors::new();
    for (i, expert) in split_experts(&tensor)?.into_iter().enumerate() {
        let mut put = |layer: &str, weight: &Array| {
            let layer = names.iter().find(|(theirs, _)| *theirs == layer).map_or(layer, |(_, ours)| ours);
            mapped.push((format!("{path}.experts.{i}.{layer}.weight"), weight.contiguous()?));
            Ok::<(), Exception>(())
        };
        if layer == "down_proj" {
            put(layer, &expert)?;
        } else {
            let halves = expert.split_equal(2, 0)?;
            put("gate_proj", &halves[0])?;
            put("up_proj", &halves[1])?;
        }
    }
    Ok(mapped)
}

/// The inverse of [`unstack`] for key paths: `a.experts.{i}.w1` → `a.{stacked}.gate_proj` and `i`. Other
/// paths are returned unchanged.
pub(super) fn stacked_name(path: &str, stacked: &str, names: &[(&str, &str)]) -> (String, Option<usize>) {
    let parts = path.split_once(".experts.").and_then(|(before, after)| {
        let (expert, layer) = after.split_once('.')?;
        Some((before, expert.parse().ok()?, layer))
    });
    let Some((before, expert, layer)) = parts else { return (path.to_owned(), None) };
    let layer = names.iter().find(|(_, ours)| *ours == layer).map_or(layer, |(theirs, _)| theirs);
    (format!("{before}.{stacked}.{layer}"), Some(expert))
}

/// Stacks quantized experts as MLX does, which is the only library that reads them; dense experts are
/// returned unchanged. `mlx_name` returns the name of a layer and its index in a stack.
///
/// # Errors
/// Experts of different shapes.
pub(super) fn restack(
    tensors: Tensors,
    mlx_name: fn(&str) -> (String, Option<usize>),
) -> nn::Result<Tensors> {
    if !tensors.keys().any(|name| name.contains(".experts.") && name.ends_with(".scales")) {
        return Ok(tensors);
    }
    let mut stored = Tensors::new();
    let mut stacks: BTreeMap<String, BTreeMap<usize, Array>> = BTreeMap::new();
    for (name, tensor) in tensors {
        let (path, leaf) = name.rsplit_once('.').unwrap_or((&name, ""));
        match mlx_name(path) {
            (stack, Some(expert)) => {
                stacks.entry(format!("{stack}.{leaf}")).or_default().insert(expert, tensor);
            }
            (_, None) if leaf.is_empty() => drop(stored.insert(name, tensor)),
            (path, None) => drop(stored.insert(format!("{path}.{leaf}"), tensor)),
        }
    }
    for (name, experts) in stacks {
        stored.insert(name, stack(&experts.into_values().collect::<Vec<_>>(), 0)?);
    }
    Ok(stored)
}

/// Splits `[experts, ...]` into one array per expert.
///
/// # Errors
/// A tensor without dimensions.
pub(super) fn split_experts(tensor: &Array) -> nn::Result<Vec<Array>> {
    let [experts, rest @ ..] = tensor.shape() else {
        return Err(Exception::custom("a stack of experts without dimensions"));
    };
    if *experts < 1 {
        return Err(Exception::custom("a stack of no experts"));
    }
    tensor.split_equal(*experts, 0)?.iter().map(|part| part.reshape(rest)).collect()
}
