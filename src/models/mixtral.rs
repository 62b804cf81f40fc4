//! [Mixtral](https://arxiv.org/abs/2401.04088): Mistral with experts.

use mlx_macros::ModuleParameters;
use serde::Deserialize;
use serde_json::Value;

use super::block::Block;
use super::causal_lm::CausalLm;
use super::checkpoint_layout::CheckpointLayout;
use super::configuration::{self, Family, Shape, Windows};
use super::experts;
use super::language_model::Model;
use crate::io::config;
use crate::kernels::activation::Activation;
use crate::nn::attention::Biases;
use crate::nn::layer::{FeedForward as _, Linears, Mixer as _, prefixed};
use crate::nn::moe::Moe;
use crate::nn::scaling::Scaling;
use crate::nn::units::Units;
use crate::nn::{self, Attention, Context, Heads, NumberedMlp, Residual, RmsNorm};
use crate::{Error, Result};

/// MLX's names of the layers of an expert, and those of the paper.
const NAMES: [(&str, &str); 3] = [("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")];

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
}

#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct MixtralBlock {
    #[param]
    self_attn: Attention,
    #[param]
    block_sparse_moe: Moe<NumberedMlp>,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
}

const FAMILY: Family = Family {
    kv_heads: Some(8),
    norm_eps: ("rms_norm_eps", 1e-5),
    max_position_embeddings: 131_072,
    rope_theta: 1_000_000.0,
    windows: Windows::Always,
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
    let (count, routing) = experts::routing(json, &shape, (8, 2))?;
    if configuration::activation(json, "hidden_act", Activation::Silu)? != Activation::Silu {
        return Err(Error::ModelLoading("\"hidden_act\" is not \"silu\", which the experts need".to_owned()));
    }
    let decoder = CausalLm::new(&shape, |i| {
        let expert = || NumberedMlp::new(shape.hidden, intermediate);
        Ok(MixtralBlock {
            self_attn: Attention::new(shape.hidden, shape.attention(i), Biases::default())?,
            block_sparse_moe: Moe::new(shape.hidden, count, routing, expert)?,
            input_layernorm: shape.norm(shape.hidden)?,
            post_attention_layernorm: shape.norm(shape.hidden)?,
        })
    })?;
    // transformers 5 calls the experts as other families do.
    let map_weight =
        |name: &str, tensor| experts::split(&name.replace(".mlp.", ".block_sparse_moe."), tensor, &NAMES);
    let mlx_name = |path: &str| experts::stacked_name(path, "switch_mlp", &NAMES);
    Ok(Box::new(decoder.with_layout(CheckpointLayout {
        map_weight,
        mlx_name,
        ..CheckpointLayout::default()
    })))
}

impl Block for MixtralBlock {
    const DATA_DEPENDENT: bool = true;

    fn forward(&self, x: &mut Residual, context: Context) -> nn::Result<()> {
        let attended = self.self_attn.forward(&x.normed(&self.input_layernorm)?, context)?;
        x.add(attended)?;
        let transformed = self.block_sparse_moe.forward(&x.normed(&self.post_attention_layernorm)?)?;
        x.add(transformed)
    }

    fn linears(&mut self) -> Linears<'_> {
        let mut layers = prefixed("self_attn", self.self_attn.linears());
        layers.extend(prefixed("block_sparse_moe", self.block_sparse_moe.linears()));
        layers
    }

    fn scalings(&self) -> Vec<Scaling> {
        let attention = self.self_attn.flow().prefixed("self_attn");
        let experts = self.block_sparse_moe.flow().prefixed("block_sparse_moe");
        let mut scalings = attention.behind("input_layernorm", &self.input_layernorm);
        scalings.extend(experts.behind("post_attention_layernorm", &self.post_attention_layernorm));
        scalings
    }

    fn heads(&self) -> Option<&Heads> {
        self.self_attn.heads()
    }

    fn groups(&self) -> Option<Units> {
        self.self_attn.groups().map(|groups| groups.prefixed("self_attn"))
    }

    fn channels(&self) -> Option<Units> {
        self.block_sparse_moe.channels().map(|channels| channels.prefixed("block_sparse_moe"))
    }
}
