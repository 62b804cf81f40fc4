//! Llama ([1](https://arxiv.org/abs/2302.13971), [2](https://arxiv.org/abs/2307.09288),
//! [3](https://arxiv.org/abs/2407.21783)), [Mistral](https://arxiv.org/abs/2310.06825) and SmolLM2.

use mlx_macros::ModuleParameters;
use mlx_rs::{Array, Dtype};
use serde::Deserialize;
use serde_json::Value;

use super::{Model, config};
use crate::kernels::activation::{Activation, gated};
use crate::kernels::attention::{Keys, Mask, attention};
use crate::kernels::cached_attention::Query;
use crate::kernels::linear::Layer;
use crate::kernels::rope::Positions;
use crate::nn::linear::forward_all;
use crate::nn::packed::Slots;
use crate::nn::rope::RopeScaling;
use crate::nn::{self, Cache, Embedding, KvCache, Linear, Residual, RmsNorm, Rope};
use crate::{Error, Result};

/// The part of `config.json` that shapes the model; defaults are those of Hugging Face's Llama.
#[derive(Debug, Clone, Deserialize)]
struct File {
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    vocab_size: i64,
    #[serde(default = "default_eps")]
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    /// Where transformers 5 keeps `rope_theta` and `rope_scaling`.
    rope_parameters: Option<Value>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    sliding_window: Option<i64>,
    #[serde(default = "default_activation")]
    hidden_act: String,
}

fn default_eps() -> f32 {
    1e-6
}

fn default_activation() -> String {
    "silu".to_owned()
}

/// Shape of a model, checked.
#[derive(Debug, Clone)]
pub struct Config {
    hidden: i32,
    intermediate: i32,
    layers: i32,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    vocab: i32,
    norm_eps: f32,
    rope_theta: f64,
    rope_scaling: RopeScaling,
    attention_bias: bool,
    mlp_bias: bool,
    tied: bool,
    mask: Mask,
}

impl Config {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// A key that is missing, of the wrong type or out of range.
    pub fn parse(json: &Value) -> Result<Self> {
        let file: File = config::parse(json)?;
        let hidden = config::size("hidden_size", file.hidden_size, 1 << 20)?;
        let heads = config::size("num_attention_heads", file.num_attention_heads, 1 << 14)?;
        let kv_heads = file.num_key_value_heads.unwrap_or(file.num_attention_heads);
        let kv_heads = config::size("num_key_value_heads", kv_heads, heads)?;
        let head_dim = file.head_dim.unwrap_or_else(|| i64::from(hidden / heads));
        if heads % kv_heads != 0 {
            return Err(Error::ModelLoading(format!(
                "\"num_attention_heads\" ({heads}) is not a multiple of \"num_key_value_heads\" ({kv_heads})"
            )));
        }
        if file.hidden_act != "silu" {
            let message = format!("\"hidden_act\" is \"{}\", expected \"silu\"", file.hidden_act);
            return Err(Error::ModelLoading(message));
        }
        if file.rms_norm_eps.is_nan() || file.rms_norm_eps < 0.0 {
            let message = format!("\"rms_norm_eps\" is {}, expected 0 or more", file.rms_norm_eps);
            return Err(Error::ModelLoading(message));
        }
        let rope = file.rope_parameters.or(file.rope_scaling).unwrap_or(Value::Null);
        let rope_theta = rope["rope_theta"].as_f64().or(file.rope_theta).unwrap_or(10_000.0);
        let rope_scaling = rope_scaling(&rope)?;
        if !(rope_theta.is_finite() && rope_theta > 0.0 && rope_scaling.is_valid()) {
            return Err(Error::ModelLoading(format!(
                "RoPE cannot have theta {rope_theta} and {rope_scaling:?}"
            )));
        }
        if head_dim % 2 != 0 {
            return Err(Error::ModelLoading(format!("\"head_dim\" is {head_dim}, expected an even number")));
        }
        let window = file.sliding_window.map(|w| config::size("sliding_window", w, i32::MAX)).transpose()?;
        Ok(Self {
            hidden,
            intermediate: config::size("intermediate_size", file.intermediate_size, 1 << 22)?,
            layers: config::size("num_hidden_layers", file.num_hidden_layers, 1 << 12)?,
            heads,
            kv_heads,
            head_dim: config::size("head_dim", head_dim, 1 << 14)?,
            vocab: config::size("vocab_size", file.vocab_size, 1 << 24)?,
            norm_eps: file.rms_norm_eps,
            rope_theta,
            rope_scaling,
            attention_bias: file.attention_bias,
            mlp_bias: file.mlp_bias,
            tied: file.tie_word_embeddings,
            mask: window.map_or(Mask::Causal, Mask::Sliding),
        })
    }
}

fn rope_scaling(rope: &Value) -> Result<RopeScaling> {
    let mut rope = rope.clone();
    let Some(fields) = rope.as_object_mut() else {
        return Ok(RopeScaling::Default);
    };
    // Older files say "type".
    let kind = fields.get("rope_type").or_else(|| fields.get("type")).cloned();
    fields.insert("rope_type".into(), kind.unwrap_or_else(|| "default".into()));
    config::parse(&rope).map_err(|error| Error::ModelLoading(format!("\"rope_scaling\": {error}")))
}

/// `[batch, time]` of ids → `[batch, time, vocab]`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Llama {
    #[param]
    model: Decoder,
    #[param]
    lm_head: Option<Linear>,
}

#[derive(Debug, Clone, ModuleParameters)]
struct Decoder {
    #[param]
    embed_tokens: Embedding,
    #[param]
    layers: Vec<Block>,
    #[param]
    norm: RmsNorm,
}

#[derive(Debug, Clone, ModuleParameters)]
struct Block {
    #[param]
    self_attn: Attention,
    #[param]
    mlp: Mlp,
    #[param]
    input_layernorm: RmsNorm,
    #[param]
    post_attention_layernorm: RmsNorm,
}

#[derive(Debug, Clone, ModuleParameters)]
struct Attention {
    #[param]
    q_proj: Linear,
    #[param]
    k_proj: Linear,
    #[param]
    v_proj: Linear,
    #[param]
    o_proj: Linear,
    rope: Rope,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    mask: Mask,
}

#[derive(Debug, Clone, ModuleParameters)]
#[expect(clippy::struct_field_names, reason = "field names are the keys of a checkpoint")]
struct Mlp {
    #[param]
    gate_proj: Linear,
    #[param]
    up_proj: Linear,
    #[param]
    down_proj: Linear,
}

impl Llama {
    /// A model of zeros to be filled from a checkpoint.
    ///
    /// # Errors
    /// What MLX raises.
    pub fn new(config: &Config) -> Result<Self> {
        let layers: nn::Result<Vec<Block>> = (0..config.layers).map(|_| Block::new(config)).collect();
        let head = if config.tied { None } else { Some(Linear::new(config.hidden, config.vocab, false)?) };
        Ok(Self {
            model: Decoder {
                embed_tokens: Embedding::new(config.vocab, config.hidden)?,
                layers: layers?,
                norm: RmsNorm::new(config.hidden, config.norm_eps)?,
            },
            lm_head: head,
        })
    }
}

impl Model for Llama {
    fn hidden(&self, ids: &Array, mut cache: Option<&mut Cache>) -> nn::Result<Array> {
        let mut x = Residual::new(self.model.embed_tokens.forward(ids, self.dtype())?);
        for (i, block) in self.model.layers.iter().enumerate() {
            block.forward(&mut x, cache.as_mut().map(|cache| &mut cache.layers[i]))?;
        }
        x.normed(&self.model.norm)
    }

    fn head(&self) -> Layer<'_> {
        self.lm_head.as_ref().map_or_else(|| self.model.embed_tokens.as_linear(), Linear::operands)
    }

    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear) -> Result<()>) -> Result<()> {
        for (i, Block { self_attn, mlp, .. }) in self.model.layers.iter_mut().enumerate() {
            for (name, layer) in [
                ("self_attn.q_proj", &mut self_attn.q_proj),
                ("self_attn.k_proj", &mut self_attn.k_proj),
                ("self_attn.v_proj", &mut self_attn.v_proj),
                ("self_attn.o_proj", &mut self_attn.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ] {
                visit(&format!("model.layers.{i}.{name}"), layer)?;
            }
        }
        Ok(())
    }

    fn visit_packable(&mut self, visit: &mut dyn FnMut(&str, Slots) -> Result<()>) -> Result<()> {
        visit("model.embed_tokens", self.model.embed_tokens.slots())?;
        self.visit_linears(&mut |path, layer| visit(path, layer.slots()))?;
        self.lm_head.as_mut().map_or(Ok(()), |head| visit("lm_head", head.slots()))
    }

    fn num_layers(&self) -> usize {
        self.model.layers.len()
    }

    fn vocab_size(&self) -> i32 {
        self.model.embed_tokens.table().shape().0
    }

    fn dtype(&self) -> Dtype {
        self.model.norm.weight.dtype()
    }

    fn ignores(&self, key: &str) -> bool {
        // Old checkpoints store the RoPE table; tied ones may repeat the embedding as head.
        key.ends_with("rotary_emb.inv_freq") || (key.starts_with("lm_head.") && self.lm_head.is_none())
    }
}

impl Block {
    fn new(config: &Config) -> nn::Result<Self> {
        Ok(Self {
            self_attn: Attention::new(config)?,
            mlp: Mlp::new(config)?,
            input_layernorm: RmsNorm::new(config.hidden, config.norm_eps)?,
            post_attention_layernorm: RmsNorm::new(config.hidden, config.norm_eps)?,
        })
    }

    /// `x`: `[batch, time, hidden]`
    fn forward(&self, x: &mut Residual, cache: Option<&mut KvCache>) -> nn::Result<()> {
        let attended = self.self_attn.forward(&x.normed(&self.input_layernorm)?, cache)?;
        x.add(attended)?;
        let transformed = self.mlp.forward(&x.normed(&self.post_attention_layernorm)?)?;
        x.add(transformed)
    }
}

impl Attention {
    fn new(config: &Config) -> nn::Result<Self> {
        let &Config { hidden, heads, kv_heads, head_dim, attention_bias: bias, mask, .. } = config;
        Ok(Self {
            q_proj: Linear::new(hidden, heads * head_dim, bias)?,
            k_proj: Linear::new(hidden, kv_heads * head_dim, bias)?,
            v_proj: Linear::new(hidden, kv_heads * head_dim, bias)?,
            o_proj: Linear::new(heads * head_dim, hidden, bias)?,
            rope: Rope::new(head_dim, config.rope_theta, config.rope_scaling),
            heads,
            kv_heads,
            head_dim,
            mask,
        })
    }

    /// `x`: `[batch, time, hidden]` → same shape.
    fn forward(&self, x: &Array, cache: Option<&mut KvCache>) -> nn::Result<Array> {
        let [q, k, v] = forward_all(x, [&self.q_proj, &self.k_proj, &self.v_proj])?;
        let scale = (self.head_dim as f32).sqrt().recip();
        if let Some(cache) = cache {
            let query = Query {
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim: self.head_dim,
                rotation: Some(self.rope.rotation()),
                scale,
                mask: self.mask,
            };
            return self.o_proj.forward(&cache.attend([&q, &k, &v], query)?);
        }
        let (batch, time) = (x.dim(0), x.dim(1));
        let heads = |y: Array, heads: i32| y.reshape(&[batch, time, heads, self.head_dim]);
        let (q, k, v) = (heads(q, self.heads)?, heads(k, self.kv_heads)?, heads(v, self.kv_heads)?);
        let (q, k) = self.rope.forward(&q, &k, Positions::From(0))?;
        let y = attention(&q, Keys::all(&k, &v), scale, self.mask, None)?;
        self.o_proj.forward(&y.reshape(&[batch, time, -1])?)
    }
}

impl Mlp {
    fn new(config: &Config) -> nn::Result<Self> {
        let &Config { hidden, intermediate, mlp_bias: bias, .. } = config;
        Ok(Self {
            gate_proj: Linear::new(hidden, intermediate, bias)?,
            up_proj: Linear::new(hidden, intermediate, bias)?,
            down_proj: Linear::new(intermediate, hidden, bias)?,
        })
    }

    /// SwiGLU: `x`: `[..., hidden]` → same shape.
    fn forward(&self, x: &Array) -> nn::Result<Array> {
        let [gate, up] = forward_all(x, [&self.gate_proj, &self.up_proj])?;
        self.down_proj.forward(&gated(Activation::Silu, &gate, &up)?)
    }
}
