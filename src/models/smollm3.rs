//! [SmolLM3](https://huggingface.co/blog/smollm3): Llama with every fourth layer without position embedding
//! ([NoPE](https://arxiv.org/abs/2501.18795)).

use serde::Deserialize;
use serde_json::Value;

use super::block::PreNormBlock;
use super::causal_lm::CausalLm;
use super::language_model::Model;
use super::shape;
use super::shape::{Defaults, Shape};
use crate::io::config;
use crate::kernels::activation::Activation;
use crate::nn::attention::Biases;
use crate::nn::{Attention, Mlp};
use crate::{Error, Result};

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    /// 1 for layers with position embedding, 0 for those without.
    no_rope_layers: Option<Vec<u8>>,
    #[serde(default = "default_interval")]
    no_rope_layer_interval: i64,
}

fn default_interval() -> i64 {
    4
}

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let shape = Shape::parse(json, Defaults { tied: true, ..Defaults::default() })?;
    let file: File = config::parse(json)?;
    let intermediate = config::size("intermediate_size", file.intermediate_size, 1 << 22)?;
    let activation = shape::activation(json, "hidden_act", Activation::Silu)?;
    let with_rope = layers_with_rope(&file, shape.layers)?;
    let window = if file.use_sliding_window { shape::window(json)? } else { None };
    let masks = shape::masks(json, shape.layers, window, |i| window.is_some() && !with_rope[i])?;
    let rope = shape.rope(json, 2_000_000.0)?;
    let biases = Biases { qkv: file.attention_bias, output: file.attention_bias };
    let decoder = CausalLm::new(&shape, |i| {
        let heads = shape.heads(masks[i], with_rope[i].then(|| rope.clone()));
        let mlp = Mlp::new(shape.hidden, intermediate, file.mlp_bias, activation)?;
        PreNormBlock::new(&shape, Attention::new(shape.hidden, heads, biases)?, mlp)
    })?;
    Ok(Box::new(decoder))
}

fn layers_with_rope(file: &File, layers: usize) -> Result<Vec<bool>> {
    if let Some(flags) = &file.no_rope_layers {
        if flags.len() < layers {
            let found = flags.len();
            let message =
                format!("\"no_rope_layers\" has {found} entries for {layers} \"num_hidden_layers\"");
            return Err(Error::ModelLoading(message));
        }
        return Ok(flags.iter().take(layers).map(|&flag| flag != 0).collect());
    }
    let interval = config::size("no_rope_layer_interval", file.no_rope_layer_interval, i32::MAX)?;
    Ok((1..=layers).map(|i| i % interval as usize != 0).collect())
}
