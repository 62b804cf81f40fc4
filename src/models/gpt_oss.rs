//! [gpt-oss](https://arxiv.org/abs/2508.10925): experts with a clamped gate, attention sinks, and a sliding
//! window in every other block.

use mlx_macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::ops::{clip, sigmoid};
use mlx_rs::{Array, Dtype};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::block::PreNormBlock;
use super::causal_lm::CausalLm;
use super::checkpoint_layout::CheckpointLayout;
use super::configuration::{Family, RopeKeys, Shape, Windows, flag};
use super::language_model::Model;
use super::{experts, gpt_oss_layout};
use crate::io::config;
use crate::nn::attention::Biases;
use crate::nn::layer::{FeedForward, Linears, named};
use crate::nn::linear::forward_all;
use crate::nn::moe::{Routing, expert_flow, expert_linears, route};
use crate::nn::scaling::Flow;
use crate::nn::{self, Attention, Linear};
use crate::{Error, Result};

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
    #[serde(default = "default_alpha")]
    swiglu_alpha: f32,
    #[serde(default = "default_limit")]
    swiglu_limit: f32,
}

fn default_alpha() -> f32 {
    1.702
}

fn default_limit() -> f32 {
    7.0
}

/// Router and experts.
#[derive(Debug, Clone, ModuleParameters)]
#[expect(clippy::struct_field_names, reason = "field names are the keys of a checkpoint")]
struct Experts {
    #[param]
    router: Linear,
    #[param]
    experts: Vec<Expert>,
    routing: Routing,
}

#[derive(Debug, Clone, ModuleParameters)]
struct Expert {
    #[param]
    gate_proj: Linear,
    #[param]
    up_proj: Linear,
    #[param]
    down_proj: Linear,
    gate: Gate,
}

/// `(up + 1) · gate · sigmoid(alpha · gate)`, with `gate` clamped to at most `limit` and `up` to `±limit`.
#[derive(Debug, Clone, Copy)]
struct Gate {
    alpha: f32,
    limit: f32,
}

const FAMILY: Family = Family {
    kv_heads: Some(8),
    head_dim: Some(64),
    norm_eps: ("rms_norm_eps", 1e-5),
    max_position_embeddings: 131_072,
    rope_theta: 150_000.0,
    rope: RopeKeys::SharedOr(rotation),
    windows: Windows::EveryOther(128),
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
    let gate = Gate { alpha: file.swiglu_alpha, limit: file.swiglu_limit };
    if !(gate.alpha.is_finite() && gate.limit > 0.0) {
        return Err(Error::ModelLoading(format!("experts cannot have {gate:?}")));
    }
    let (count, routing) = experts::routing(json, &shape, (128, 4))?;
    let bias = flag(json, "attention_bias", true)?;
    let biases = Biases { qkv: bias, output: bias };
    let decoder = CausalLm::new(&shape, |i| {
        let mut attention = Attention::new(shape.hidden, shape.attention(i), biases)?;
        attention.sinks = Param::new(Some(Array::zeros::<f32>(&[shape.heads])?));
        PreNormBlock::new(&shape, attention, Experts::new(shape.hidden, intermediate, count, routing, gate)?)
    })?;
    let mlx_name = |path: &str| experts::stacked_name(path, "experts", &[]);
    let layout =
        CheckpointLayout { map_weight: gpt_oss_layout::map_weight, export: gpt_oss_layout::export, mlx_name };
    Ok(Box::new(decoder.with_layout(layout)))
}

/// The rotation of the published models.
fn rotation() -> Map<String, Value> {
    Map::from_iter([
        ("rope_type".to_owned(), "yarn".into()),
        ("factor".to_owned(), 32.0.into()),
        ("truncate".to_owned(), false.into()),
        ("original_max_position_embeddings".to_owned(), 4096.into()),
    ])
}

impl Experts {
    fn new(hidden: i32, intermediate: i32, count: i32, routing: Routing, gate: Gate) -> nn::Result<Self> {
        let expert = |_| {
            Ok(Expert {
                gate_proj: Linear::new(hidden, intermediate, true)?,
                up_proj: Linear::new(hidden, intermediate, true)?,
                down_proj: Linear::new(intermediate, hidden, true)?,
                gate,
            })
        };
        let experts = (0..count).map(expert).collect::<nn::Result<_>>()?;
        Ok(Self { router: Linear::new(hidden, count, true)?, experts, routing })
    }
}

impl FeedForward for Experts {
    const DATA_DEPENDENT: bool = true;

    fn forward(&self, x: &Array) -> nn::Result<Array> {
        // A softmax over the selected experts is a softmax over all, normalized over the selected ones.
        route(x, &self.router, None, self.routing, &self.experts)
    }

    fn linears(&mut self) -> Linears<'_> {
        let mut layers = named([("router", &mut self.router)]);
        layers.extend(expert_linears(&mut self.experts));
        layers
    }

    fn flow(&self) -> Flow {
        expert_flow("router", &self.experts)
    }
}

impl FeedForward for Expert {
    fn forward(&self, x: &Array) -> nn::Result<Array> {
        let [gate, up] = forward_all(x, [&self.gate_proj, &self.up_proj])?;
        self.down_proj.forward(&self.gate.forward(&gate, &up)?)
    }

    fn linears(&mut self) -> Linears<'_> {
        let Self { gate_proj, up_proj, down_proj, .. } = self;
        named([("gate_proj", gate_proj), ("up_proj", up_proj), ("down_proj", down_proj)])
    }

    fn flow(&self) -> Flow {
        // Clamped and with one added, the output is not linear in that of any layer.
        Flow { readers: ["gate_proj", "up_proj"].map(str::to_owned).to_vec(), scalings: Vec::new() }
    }
}

impl Gate {
    /// `gate` and `up` → gated output of the same shape.
    fn forward(self, gate: &Array, up: &Array) -> nn::Result<Array> {
        let constant = |x: f32| Array::from_f32(x).as_dtype(gate.dtype());
        let dtype: Dtype = gate.dtype();
        let gate = clip(gate, ((), constant(self.limit)?))?;
        let up = clip(up, (constant(-self.limit)?, constant(self.limit)?))?;
        let swish = gate.multiply(sigmoid(gate.multiply(constant(self.alpha)?)?)?)?;
        up.add(constant(1.0)?)?.multiply(swish)?.as_dtype(dtype)
    }
}
