//! [LFM2](https://arxiv.org/abs/2511.23404): short convolutions in most layers, attention in the others.

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use serde::Deserialize;
use serde_json::Value;

use super::block::Block;
use super::causal_lm::CausalLm;
use super::checkpoint_layout::{CheckpointLayout, NamedTensors};
use super::configuration::{self, Family, Shape, flag};
use super::language_model::Model;
use crate::Result;
use crate::io::config;
use crate::nn::heads::AttentionExtras;
use crate::nn::layer::{FeedForward, Linears, Mixer, named, prefixed};
use crate::nn::linear::forward_all;
use crate::nn::scaling::{Flow, Scaling};
use crate::nn::units::Units;
use crate::nn::{
    self, Context, ConvState, Heads, KvCache, LayerCache, Linear, NumberedMlp, Residual, RmsNorm, ShortConv,
};
use crate::params::Tensors;

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: Option<i64>,
    block_ff_dim: Option<i64>,
    #[serde(default = "default_multiplier")]
    block_ffn_dim_multiplier: Option<f64>,
    #[serde(default = "default_multiple")]
    block_multiple_of: i64,
    full_attn_idxs: Option<Vec<usize>>,
}

#[expect(clippy::unnecessary_wraps, reason = "null is another value than none at all")]
fn default_multiplier() -> Option<f64> {
    Some(1.0)
}

fn default_multiple() -> i64 {
    256
}

pub(super) const FAMILY: Family = Family {
    kv_heads: Some(8),
    norm_eps: ("norm_eps", 1e-5),
    tied: true,
    max_position_embeddings: 128_000,
    rope_theta: 1_000_000.0,
    ..Family::LLAMA
};

/// Validated settings of the LFM2 architectures.
#[derive(Debug, Clone)]
pub(super) struct Lfm2 {
    pub(super) shape: Shape,
    /// Whether each layer is attention.
    attends: Vec<bool>,
    taps: i32,
    conv_bias: bool,
}

/// `x += operator(norm(x)); x += feed_forward(norm(x))`, with attention or a convolution as operator.
#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct Lfm2Block<F: FeedForward> {
    #[param]
    self_attn: Option<Attention>,
    #[param]
    conv: Option<ShortConv>,
    #[param]
    feed_forward: F,
    #[param]
    operator_norm: RmsNorm,
    #[param]
    ffn_norm: RmsNorm,
}

/// Attention with head norms and LFM2's parameter names.
#[derive(Debug, Clone, ModuleParameters)]
struct Attention {
    #[param]
    q_proj: Linear,
    #[param]
    k_proj: Linear,
    #[param]
    v_proj: Linear,
    #[param]
    out_proj: Linear,
    #[param]
    q_layernorm: RmsNorm,
    #[param]
    k_layernorm: RmsNorm,
    heads: Heads,
}

/// Creates the model described by `config.json`.
///
/// # Errors
/// A key that is missing, of the wrong type or out of range.
pub(super) fn create(json: &Value) -> Result<Box<Model>> {
    let file: File = config::parse(json)?;
    let lfm2 = parse(json, &file)?;
    let size = feed_forward_size(&file, flag(json, "block_auto_adjust_ff_dim", true)?)?;
    let decoder = CausalLm::new(&lfm2.shape, |i| lfm2.block(i, NumberedMlp::new(lfm2.shape.hidden, size)?))?;
    Ok(Box::new(decoder.with_layout(CheckpointLayout { map_weight, export, ..CheckpointLayout::default() })))
}

fn parse(json: &Value, file: &File) -> Result<Lfm2> {
    let indices = file.full_attn_idxs.as_deref();
    Lfm2::parse(json, |i| indices.is_none_or(|indices| indices.contains(&i)))
}

/// `json` with `layer_types`, and the length of convolutions.
///
/// # Errors
/// As [`create`].
pub(super) fn with_layer_types(json: &Value) -> Result<Value> {
    let Lfm2 { attends, taps, .. } = parse(json, &config::parse(json)?)?;
    let mut json = json.clone();
    json["layer_types"] =
        attends.into_iter().map(|attends| if attends { "full_attention" } else { "conv" }).collect();
    json["conv_L_cache"] = taps.into();
    Ok(json)
}

/// Feed-forward size as in the original code: two thirds, times a multiplier, rounded up.
fn feed_forward_size(file: &File, adjusted: bool) -> Result<i32> {
    let largest = 1 << 22;
    let size = file.block_ff_dim.or(file.intermediate_size).unwrap_or(12_288);
    let mut size = i64::from(config::size("intermediate_size", size, largest)?);
    if adjusted {
        size = 2 * size / 3;
        if let Some(multiplier) = file.block_ffn_dim_multiplier {
            let multiple = i64::from(config::size("block_multiple_of", file.block_multiple_of, largest)?);
            size = (size as f64 * multiplier) as i64;
            size = (size + multiple - 1) / multiple * multiple;
        }
    }
    config::size("intermediate_size, adjusted,", size, largest)
}

impl Lfm2 {
    /// Parses `config.json`. Without `layer_types`, `attends` says which layers are attention.
    ///
    /// # Errors
    /// A key that is missing, of the wrong type or out of range.
    pub(super) fn parse(json: &Value, attends: impl Fn(usize) -> bool) -> Result<Self> {
        #[derive(Deserialize)]
        #[expect(non_snake_case, reason = "the key of a checkpoint")]
        struct File {
            #[serde(default = "default_taps")]
            conv_L_cache: i64,
        }
        fn default_taps() -> i64 {
            3
        }
        let mut shape = Shape::parse(json, &FAMILY)?;
        let file: File = config::parse(json)?;
        shape.tied = flag(json, "tie_embedding", shape.tied)?;
        let attends = match configuration::layer_types(json, shape.layers)? {
            None => (0..shape.layers).map(attends).collect(),
            Some(types) => types
                .iter()
                .map(|kind| match kind.as_str() {
                    "full_attention" => Ok(true),
                    "conv" => Ok(false),
                    other => Err(configuration::unknown_layer_type(other, "full_attention or conv")),
                })
                .collect::<Result<_>>()?,
        };
        Ok(Self {
            attends,
            taps: config::size("conv_L_cache", file.conv_L_cache, 1 << 10)?,
            conv_bias: flag(json, "conv_bias", false)?,
            shape,
        })
    }

    /// Creates block number `i` with `feed_forward`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn block<F: FeedForward>(&self, i: usize, feed_forward: F) -> nn::Result<Lfm2Block<F>> {
        let (hidden, attends) = (self.shape.hidden, self.attends[i]);
        let (self_attn, conv) = if attends {
            (Some(Attention::new(&self.shape, self.shape.attention(i))?), None)
        } else {
            (None, Some(ShortConv::new(hidden, self.taps, self.conv_bias)?))
        };
        let (operator_norm, ffn_norm) = (self.shape.norm(hidden)?, self.shape.norm(hidden)?);
        Ok(Lfm2Block { self_attn, conv, feed_forward, operator_norm, ffn_norm })
    }
}

impl<F: FeedForward> Lfm2Block<F> {
    fn operator(&self) -> nn::Result<&dyn Mixer> {
        let attention = self.self_attn.as_ref().map(|attention| attention as &dyn Mixer);
        attention
            .or(self.conv.as_ref().map(|conv| conv as &dyn Mixer))
            .ok_or_else(|| mlx_rs::error::Exception::custom("a layer without operator"))
    }
}

impl<F: FeedForward> Block for Lfm2Block<F> {
    const DATA_DEPENDENT: bool = F::DATA_DEPENDENT;

    fn forward(&self, x: &mut Residual, context: Context) -> nn::Result<()> {
        let mixed = self.operator()?.forward(&x.normed(&self.operator_norm)?, context)?;
        x.add(mixed)?;
        let transformed = self.feed_forward.forward(&x.normed(&self.ffn_norm)?)?;
        x.add(transformed)
    }

    fn linears(&mut self) -> Linears<'_> {
        let mut layers = Vec::new();
        layers.extend(self.self_attn.iter_mut().flat_map(|part| prefixed("self_attn", part.linears())));
        layers.extend(self.conv.iter_mut().flat_map(|part| prefixed("conv", part.linears())));
        layers.extend(prefixed("feed_forward", self.feed_forward.linears()));
        layers
    }

    fn scalings(&self) -> Vec<Scaling> {
        let attention = self.self_attn.as_ref().map(|attention| attention.flow().prefixed("self_attn"));
        let operator = attention.or(self.conv.as_ref().map(|conv| conv.flow().prefixed("conv")));
        let feed_forward = self.feed_forward.flow().prefixed("feed_forward");
        let mut scalings = operator.unwrap_or_default().behind("operator_norm", &self.operator_norm);
        scalings.extend(feed_forward.behind("ffn_norm", &self.ffn_norm));
        scalings
    }

    fn heads(&self) -> Option<&Heads> {
        self.self_attn.as_ref().and_then(Mixer::heads)
    }

    fn groups(&self) -> Option<Units> {
        self.self_attn.as_ref().and_then(Mixer::groups).map(|groups| groups.prefixed("self_attn"))
    }

    fn channels(&self) -> Option<Units> {
        self.feed_forward.channels().map(|channels| channels.prefixed("feed_forward"))
    }

    fn new_cache(&self, planned: i32) -> LayerCache {
        match self.conv {
            Some(_) => LayerCache::Conv(ConvState::default()),
            None => LayerCache::Kv(KvCache::new(planned)),
        }
    }
}

impl Attention {
    fn new(shape: &Shape, heads: Heads) -> nn::Result<Self> {
        let (queries, keys) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        Ok(Self {
            q_proj: Linear::new(shape.hidden, queries, false)?,
            k_proj: Linear::new(shape.hidden, keys, false)?,
            v_proj: Linear::new(shape.hidden, keys, false)?,
            out_proj: Linear::new(queries, shape.hidden, false)?,
            q_layernorm: shape.norm(shape.head_dim)?,
            k_layernorm: shape.norm(shape.head_dim)?,
            heads,
        })
    }
}

impl Mixer for Attention {
    fn forward(&self, x: &Array, context: Context) -> nn::Result<Array> {
        let qkv = forward_all(x, [&self.q_proj, &self.k_proj, &self.v_proj])?;
        let extras = AttentionExtras { norms: Some((&self.q_layernorm, &self.k_layernorm)), sinks: None };
        self.out_proj.forward(&self.heads.forward(qkv, extras, context)?)
    }

    fn linears(&mut self) -> Linears<'_> {
        let Self { q_proj, k_proj, v_proj, out_proj, .. } = self;
        named([("q_proj", q_proj), ("k_proj", k_proj), ("v_proj", v_proj), ("out_proj", out_proj)])
    }

    fn flow(&self) -> Flow {
        Flow {
            readers: ["q_proj", "k_proj", "v_proj"].map(str::to_owned).to_vec(),
            scalings: vec![Scaling::between("v_proj", self.heads.value_rows(0), "out_proj")],
        }
    }

    fn heads(&self) -> Option<&Heads> {
        Some(&self.heads)
    }

    fn groups(&self) -> Option<Units> {
        Some(self.heads.groups([("q_proj", 0), ("k_proj", 0), ("v_proj", 0)], "out_proj"))
    }
}

/// Renames the final norm and transposes the convolution weights of MLX, `[hidden, taps, 1]`.
///
/// # Errors
/// Errors from MLX.
pub(super) fn map_weight(name: &str, tensor: Array) -> nn::Result<NamedTensors> {
    let turned = name.ends_with(".conv.conv.weight") && tensor.ndim() == 3 && tensor.dim(1) > tensor.dim(2);
    let tensor = if turned { tensor.transpose_axes(&[0, 2, 1])?.contiguous()? } else { tensor };
    Ok(vec![(name.replace("model.embedding_norm.", "model.norm."), tensor)])
}

/// Renames the final norm.
#[expect(clippy::unnecessary_wraps, reason = "the type of a layout")]
pub(super) fn export(parameters: Tensors) -> nn::Result<Tensors> {
    let renamed =
        |(name, tensor): (String, Array)| (name.replace("model.norm.", "model.embedding_norm."), tensor);
    Ok(parameters.into_iter().map(renamed).collect())
}
