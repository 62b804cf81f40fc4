//! Common parts of the Gemma architectures.

use mlx_macros::ModuleParameters;
use serde::Deserialize;
use serde_json::Value;

use super::block::Block;
use super::causal_lm::CausalLm;
use super::configuration::{self, Family, Shape, Windows, flag};
use super::outline::BlockOutline;
use crate::io::config;
use crate::kernels::activation::Activation;
use crate::nn::attention::Biases;
use crate::nn::layer::{FeedForward as _, Linears, Mixer as _, prefixed};
use crate::nn::scaling::Scaling;
use crate::nn::units::Units;
use crate::nn::{self, Attention, Context, Heads, Mlp, Residual, RmsNorm};
use crate::{Error, Result};

/// What both Gemmas have in common; the others are those of Gemma 2.
pub(super) const FAMILY: Family = Family {
    kv_heads: Some(4),
    head_dim: Some(256),
    norm_offset: 1.0,
    tied: true,
    max_position_embeddings: 8192,
    windows: Windows::EveryOther(4096),
    ..Family::LLAMA
};

/// Keys of `config.json` beyond those of [`Shape`].
#[derive(Debug, Clone, Deserialize)]
struct File {
    intermediate_size: i64,
    #[serde(default = "default_scalar")]
    query_pre_attn_scalar: f32,
}

fn default_scalar() -> f32 {
    256.0
}

/// Validated settings.
#[derive(Debug, Clone)]
pub(super) struct Gemma {
    pub(super) shape: Shape,
    intermediate: i32,
    activation: Activation,
    bias: bool,
    /// Scaling factor of attention scores.
    scale: f32,
}

/// Block with norms before and after each layer: `x += norm(self_attn(norm(x))); x += norm(mlp(norm(x)))`.
#[derive(Debug, Clone, ModuleParameters)]
pub(super) struct SandwichBlock {
    #[param]
    self_attn: Attention,
    #[param]
    mlp: Mlp,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
    #[param]
    pre_feedforward_layernorm: RmsNorm,
    #[param]
    post_feedforward_layernorm: RmsNorm,
}

impl Gemma {
    /// Parses `config.json` by the rules of `family`.
    ///
    /// # Errors
    /// A key that is missing, of the wrong type or out of range.
    pub(super) fn parse(json: &Value, family: &Family) -> Result<Self> {
        let shape = Shape::parse(json, family)?;
        let file: File = config::parse(json)?;
        if flag(json, "use_bidirectional_attention", false)? {
            let message =
                "\"use_bidirectional_attention\" is true, expected a model that reads from left to right";
            return Err(Error::ModelLoading(message.to_owned()));
        }
        let scalar = positive("query_pre_attn_scalar", file.query_pre_attn_scalar)?;
        Ok(Self {
            shape,
            intermediate: config::size("intermediate_size", file.intermediate_size, 1 << 22)?,
            activation: configuration::activation(json, "hidden_activation", Activation::GeluTanh)?,
            bias: flag(json, "attention_bias", false)?,
            scale: scalar.sqrt().recip(),
        })
    }

    /// Creates the attention of layer number `layer`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn attention(&self, layer: usize, softcap: Option<f32>) -> nn::Result<Attention> {
        let mut heads = self.shape.attention(layer);
        (heads.scale, heads.softcap) = (self.scale, softcap);
        Attention::new(self.shape.hidden, heads, Biases { qkv: self.bias, output: self.bias })
    }

    /// Creates a block around `self_attn`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn block(&self, self_attn: Attention) -> nn::Result<SandwichBlock> {
        let norm = || self.shape.norm(self.shape.hidden);
        Ok(SandwichBlock {
            self_attn,
            mlp: Mlp::new(self.shape.hidden, self.intermediate, false, self.activation)?,
            input_layernorm: norm()?,
            post_attention_layernorm: norm()?,
            pre_feedforward_layernorm: norm()?,
            post_feedforward_layernorm: norm()?,
        })
    }

    /// Creates a model of the blocks created by `block`, with scaled embeddings and the softcap in `json`.
    ///
    /// # Errors
    /// A softcap out of range; errors from MLX.
    pub(super) fn decoder(
        &self,
        json: &Value,
        block: impl FnMut(usize) -> nn::Result<SandwichBlock>,
    ) -> Result<CausalLm<SandwichBlock>> {
        let decoder = CausalLm::new(&self.shape, block)?;
        let scale = (self.shape.hidden as f32).sqrt();
        Ok(decoder.with_embedding_scale(scale).with_softcap(cap(json, "final_logit_softcapping")?))
    }
}

/// Returns the softcap under `key`.
///
/// # Errors
/// A value that is neither `null` nor a positive number.
pub(super) fn cap(json: &Value, key: &str) -> Result<Option<f32>> {
    match &json[key] {
        Value::Null => Ok(None),
        // A string gives NaN, which is refused.
        value => positive(key, value.as_f64().unwrap_or(f64::NAN) as f32).map(Some),
    }
}

fn positive(key: &str, value: f32) -> Result<f32> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::ModelLoading(format!("\"{key}\" is {value}, expected a positive number")))
}

impl Block for SandwichBlock {
    fn forward(&self, x: &mut Residual, context: Context) -> nn::Result<()> {
        let attended = self.self_attn.forward(&x.normed(&self.input_layernorm)?, context)?;
        x.add(self.post_attention_layernorm.forward(&attended)?)?;
        let transformed = self.mlp.forward(&x.normed(&self.pre_feedforward_layernorm)?)?;
        x.add(self.post_feedforward_layernorm.forward(&transformed)?)
    }

    fn linears(&mut self) -> Linears<'_> {
        let mut layers = prefixed("self_attn", self.self_attn.linears());
        layers.extend(prefixed("mlp", self.mlp.linears()));
        layers
    }

    fn scalings(&self) -> Vec<Scaling> {
        let attention = self.self_attn.flow().prefixed("self_attn");
        let mlp = self.mlp.flow().prefixed("mlp");
        let mut scalings = attention.behind("input_layernorm", &self.input_layernorm);
        scalings.extend(mlp.behind("pre_feedforward_layernorm", &self.pre_feedforward_layernorm));
        scalings
    }

    fn heads(&self) -> Option<&Heads> {
        self.self_attn.heads()
    }

    fn groups(&self) -> Option<Units> {
        self.self_attn.groups().map(|groups| groups.prefixed("self_attn"))
    }

    fn channels(&self) -> Option<Units> {
        self.mlp.channels().map(|channels| channels.prefixed("mlp"))
    }

    fn outline(&self) -> Option<BlockOutline> {
        Some(BlockOutline::new(self.self_attn.plain_heads()?, self.mlp.activation()?, &self.input_layernorm))
    }
}
