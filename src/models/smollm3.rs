//! [SmolLM3](https://huggingface.co/blog/smollm3): Llama with every fourth layer without position embedding
//! ([NoPE](https://arxiv.org/abs/2501.18795)).

use serde::Deserialize;
use serde_json::Value;

use super::block::PreNormBlock;
use super::causal_lm::CausalLm;
use super::configuration::{self, Family, Shape, Windows, flag};
use super::language_model::Model;
use crate::io::config;
use crate::kernels::activation::Activation;
use crate::nn::attention::Biases;
use crate::nn::{Attention, Mlp};
use crate::{Error, Result};

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
}

pub(super) const FAMILY: Family = Family {
    kv_heads: Some(4),
    tied: true,
    max_position_embeddings: 32_768,
    rope_theta: 2_000_000.0,
    windows: Windows::WithoutRope(layers_with_rope),
    ..Family::LLAMA
};

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let shape = Shape::parse(json, &FAMILY)?;
    let file: File = config::parse(json)?;
    let intermediate = config::size("intermediate_size", file.intermediate_size, 1 << 22)?;
    let activation = configuration::activation(json, "hidden_act", Activation::Silu)?;
    let with_rope = layers_with_rope(json, shape.layers)?;
    let bias = flag(json, "attention_bias", false)?;
    let mlp_bias = flag(json, "mlp_bias", false)?;
    let decoder = CausalLm::new(&shape, |i| {
        let mut heads = shape.attention(i);
        heads.rope = heads.rope.filter(|_| with_rope[i]);
        let attention = Attention::new(shape.hidden, heads, Biases { qkv: bias, output: bias })?;
        PreNormBlock::new(&shape, attention, Mlp::new(shape.hidden, intermediate, mlp_bias, activation)?)
    })?;
    Ok(Box::new(decoder))
}

/// Whether each layer has a rotation.
fn layers_with_rope(json: &Value, layers: usize) -> Result<Vec<bool>> {
    #[derive(Deserialize)]
    struct File {
        /// 1 for layers with position embedding, 0 for those without.
        no_rope_layers: Option<Vec<u8>>,
        #[serde(default = "default_interval")]
        no_rope_layer_interval: i64,
    }
    fn default_interval() -> i64 {
        4
    }
    let file: File = config::parse(json)?;
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
