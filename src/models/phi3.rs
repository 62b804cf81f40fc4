//! [Phi-3](https://arxiv.org/abs/2404.14219), Phi-3.5 and [Phi-4](https://arxiv.org/abs/2412.08905): Llama
//! with fused query, key and value projections, and fused gate and up projections.

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::error::Exception;
use serde::Deserialize;
use serde_json::Value;

use super::block::PreNormBlock;
use super::causal_lm::CausalLm;
use super::configuration::{self, Family, RopeKeys, Shape, Windows};
use super::language_model::Model;
use crate::Result;
use crate::io::config;
use crate::kernels::activation::{Activation, gated};
use crate::nn::heads::AttentionExtras;
use crate::nn::layer::{FeedForward, Linears, Mixer, named};
use crate::nn::scaling::{Flow, Scaling};
use crate::nn::units::Units;
use crate::nn::{self, Context, Heads, Linear};

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
}

pub(super) const FAMILY: Family = Family {
    norm_eps: ("rms_norm_eps", 1e-5),
    max_position_embeddings: 4096,
    rope: RopeKeys::Partial,
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
    let activation = configuration::activation(json, "hidden_act", Activation::Silu)?;
    let decoder = CausalLm::new(&shape, |i| {
        let attention = FusedAttention::new(shape.hidden, shape.attention(i))?;
        PreNormBlock::new(&shape, attention, FusedMlp::new(shape.hidden, intermediate, activation)?)
    })?;
    Ok(Box::new(decoder))
}

#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct FusedAttention {
    #[param]
    qkv_proj: Linear,
    #[param]
    o_proj: Linear,
    heads: Heads,
}

#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct FusedMlp {
    #[param]
    gate_up_proj: Linear,
    #[param]
    down_proj: Linear,
    activation: Activation,
}

impl FusedAttention {
    fn new(hidden: i32, heads: Heads) -> nn::Result<Self> {
        let Heads { heads: queries, kv_heads, head_dim, .. } = heads;
        Ok(Self {
            qkv_proj: Linear::new(hidden, (queries + 2 * kv_heads) * head_dim, false)?,
            o_proj: Linear::new(queries * head_dim, hidden, false)?,
            heads,
        })
    }
}

impl Mixer for FusedAttention {
    fn forward(&self, x: &Array, context: Context) -> nn::Result<Array> {
        let Heads { heads, kv_heads, head_dim, .. } = self.heads;
        let ends = [heads * head_dim, (heads + kv_heads) * head_dim];
        let qkv = parts(self.qkv_proj.forward(x)?.split_at_indices(&ends, -1)?)?;
        self.o_proj.forward(&self.heads.forward(qkv, AttentionExtras::default(), context)?)
    }

    fn linears(&mut self) -> Linears<'_> {
        named([("qkv_proj", &mut self.qkv_proj), ("o_proj", &mut self.o_proj)])
    }

    fn flow(&self) -> Flow {
        let Heads { heads, kv_heads, head_dim, .. } = self.heads;
        let rows = self.heads.value_rows((heads + kv_heads) * head_dim);
        Flow {
            readers: vec!["qkv_proj".to_owned()],
            scalings: vec![Scaling::between("qkv_proj", rows, "o_proj")],
        }
    }

    fn heads(&self) -> Option<&Heads> {
        Some(&self.heads)
    }

    fn groups(&self) -> Option<Units> {
        let Heads { heads, kv_heads, head_dim, .. } = self.heads;
        let layers = [0, heads * head_dim, (heads + kv_heads) * head_dim].map(|first| ("qkv_proj", first));
        Some(self.heads.groups(layers, "o_proj"))
    }

    fn plain_heads(&self) -> Option<&Heads> {
        self.heads()
    }
}

impl FusedMlp {
    fn new(hidden: i32, intermediate: i32, activation: Activation) -> nn::Result<Self> {
        Ok(Self {
            gate_up_proj: Linear::new(hidden, 2 * intermediate, false)?,
            down_proj: Linear::new(intermediate, hidden, false)?,
            activation,
        })
    }
}

impl FeedForward for FusedMlp {
    fn forward(&self, x: &Array) -> nn::Result<Array> {
        let [gate, up] = parts(self.gate_up_proj.forward(x)?.split_equal(2, -1)?)?;
        self.down_proj.forward(&gated(self.activation, &gate, &up)?)
    }

    fn linears(&mut self) -> Linears<'_> {
        named([("gate_up_proj", &mut self.gate_up_proj), ("down_proj", &mut self.down_proj)])
    }

    fn flow(&self) -> Flow {
        let size = self.down_proj.size().0 as usize;
        let rows = (size..2 * size).collect();
        Flow {
            readers: vec!["gate_up_proj".to_owned()],
            scalings: vec![Scaling::between("gate_up_proj", rows, "down_proj")],
        }
    }

    fn channels(&self) -> Option<Units> {
        let count = self.down_proj.size().0 as usize;
        Some(Units::channels(count, [("gate_up_proj", 0), ("gate_up_proj", count)], "down_proj"))
    }

    fn activation(&self) -> Option<Activation> {
        Some(self.activation)
    }
}

fn parts<const N: usize>(arrays: Vec<Array>) -> nn::Result<[Array; N]> {
    arrays.try_into().map_err(|_| Exception::custom("a split into another number of parts"))
}
