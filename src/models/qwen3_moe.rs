//! [Qwen3](https://arxiv.org/abs/2505.09388) with experts in all or some layers.

use serde::Deserialize;
use serde_json::Value;

use super::block::PreNormBlock;
use super::causal_lm::CausalLm;
use super::checkpoint_layout::CheckpointLayout;
use super::configuration::{self, Family, Shape, Windows, flag};
use super::language_model::Model;
use super::{experts, qwen3};
use crate::Result;
use crate::io::config;
use crate::kernels::activation::Activation;
use crate::nn::Mlp;
use crate::nn::either::Either;
use crate::nn::moe::{Moe, Routing};

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: Option<i64>,
    moe_intermediate_size: i64,
    #[serde(default = "default_step")]
    decoder_sparse_step: i64,
    #[serde(default)]
    mlp_only_layers: Option<Vec<usize>>,
}

fn default_step() -> i64 {
    1
}

const FAMILY: Family = Family {
    kv_heads: Some(4),
    max_position_embeddings: 32_768,
    windows: Windows::IfUsed(4096),
    ..Family::LLAMA
};

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let shape = Shape::parse(json, &FAMILY)?;
    let file: File = config::parse(json)?;
    let expert_size = config::size("moe_intermediate_size", file.moe_intermediate_size, 1 << 22)?;
    let step = config::size("decoder_sparse_step", file.decoder_sparse_step, i32::MAX)? as usize;
    let dense_layers = file.mlp_only_layers.unwrap_or_default();
    let is_dense = |i: usize| dense_layers.contains(&i) || !(i + 1).is_multiple_of(step);
    let dense_size = match file.intermediate_size {
        None if !(0..shape.layers).any(is_dense) => 1,
        size => config::size("intermediate_size", size.unwrap_or(6144), 1 << 22)?,
    };
    let (count, routing) = experts::routing(json, &shape, (128, 8))?;
    let routing = Routing { normalized: flag(json, "norm_topk_prob", false)?, ..routing };
    let activation = configuration::activation(json, "hidden_act", Activation::Silu)?;
    let bias = flag(json, "attention_bias", false)?;
    let decoder = CausalLm::new(&shape, |i| {
        let mlp = |size: i32| Mlp::new(shape.hidden, size, false, activation);
        let mlp = if is_dense(i) {
            Either::A(mlp(dense_size)?)
        } else {
            Either::B(Moe::new(shape.hidden, count, routing, || mlp(expert_size))?)
        };
        PreNormBlock::new(&shape, qwen3::attention(&shape, i, bias)?, mlp)
    })?;
    let map_weight = |name: &str, tensor| experts::split(name, tensor, &[]);
    let mlx_name = |path: &str| experts::stacked_name(path, "switch_mlp", &[]);
    Ok(Box::new(decoder.with_layout(CheckpointLayout {
        map_weight,
        mlx_name,
        ..CheckpointLayout::default()
    })))
}
