//! [LFM2](https://arxiv.org/abs/2511.23404) with experts in all but its first layers.

use mlx_rs::Array;
use serde::Deserialize;
use serde_json::Value;

use super::causal_lm::CausalLm;
use super::checkpoint_layout::{CheckpointLayout, NamedTensors};
use super::configuration::flag;
use super::experts;
use super::language_model::Model;
use super::lfm2::{self, Lfm2};
use crate::io::config;
use crate::nn::either::Either;
use crate::nn::moe::{Moe, Routing, Scoring};
use crate::nn::{self, NumberedMlp};
use crate::{Error, Result};

/// Keys of `config.json` beyond those of all LFM2s.
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
    moe_intermediate_size: i64,
    #[serde(default = "default_dense")]
    num_dense_layers: u64,
    #[serde(default = "default_scale")]
    routed_scaling_factor: f32,
}

fn default_dense() -> u64 {
    2
}

fn default_scale() -> f32 {
    1.0
}

/// MLX's names of the layers of an expert, and those of the paper.
const NAMES: [(&str, &str); 3] = [("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")];

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let file: File = config::parse(json)?;
    if json["layer_types"].is_null() {
        return Err(Error::ModelLoading("\"layer_types\" is missing".to_owned()));
    }
    let lfm2 = Lfm2::parse(json, |_| true)?;
    let has_bias = flag(json, "use_expert_bias", true)?;
    let (shape, hidden) = (&lfm2.shape, lfm2.shape.hidden);
    let dense_size = config::size("intermediate_size", file.intermediate_size, 1 << 22)?;
    let expert_size = config::size("moe_intermediate_size", file.moe_intermediate_size, 1 << 22)?;
    if !file.routed_scaling_factor.is_finite() {
        let message = format!("\"routed_scaling_factor\" is {}", file.routed_scaling_factor);
        return Err(Error::ModelLoading(message));
    }
    let (count, routing) = experts::routing(json, shape, (32, 4))?;
    let routing = Routing {
        scoring: Scoring::Sigmoid,
        normalized: flag(json, "norm_topk_prob", true)?,
        scale: file.routed_scaling_factor,
        ..routing
    };
    let decoder = CausalLm::new(shape, |i| {
        if (i as u64) < file.num_dense_layers {
            return lfm2.block(i, Either::A(NumberedMlp::new(hidden, dense_size)?));
        }
        let mut moe = Moe::new(hidden, count, routing, || NumberedMlp::new(hidden, expert_size))?;
        if has_bias {
            *moe.expert_bias = Some(Array::zeros::<f32>(&[count])?);
        }
        lfm2.block(i, Either::B(moe))
    })?;
    Ok(Box::new(decoder.with_layout(CheckpointLayout { map_weight, export: lfm2::export, mlx_name })))
}

/// As LFM2; MLX stacks experts and renames all feed-forward layers.
fn map_weight(name: &str, tensor: Array) -> nn::Result<NamedTensors> {
    let mut name = name.to_owned();
    for (theirs, ours) in NAMES {
        name = name.replace(&format!(".feed_forward.{theirs}."), &format!(".feed_forward.{ours}."));
    }
    let mut mapped = Vec::new();
    for (name, tensor) in experts::split(&name, tensor, &NAMES)? {
        mapped.extend(lfm2::map_weight(&name, tensor)?);
    }
    Ok(mapped)
}

/// The inverse of the renaming in [`map_weight`].
fn mlx_name(path: &str) -> (String, Option<usize>) {
    let (mut path, expert) = experts::stacked_name(path, "switch_mlp", &NAMES);
    if let Some((before, layer)) = path.split_once(".feed_forward.")
        && let Some((theirs, _)) = NAMES.iter().find(|(_, ours)| *ours == layer)
    {
        path = format!("{before}.feed_forward.{theirs}");
    }
    (path, expert)
}
