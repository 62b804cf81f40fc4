//! Self-attention with grouped queries ([GQA](https://arxiv.org/abs/2305.13245)).

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::module::Param;
use mlx_rs::ops::{broadcast_to, concatenate};

use super::layer::{Linears, Mixer, named};
use super::linear::forward_all;
use super::scaling::{Flow, Scaling};
use super::{Context, KvCache, Linear, Result, RmsNorm, Rope};
use crate::kernels::attention::{KeyValues, Mask, Scoring, attention};
use crate::kernels::cached_attention::AttentionConfig;
use crate::kernels::rope::{Positions, rope};

/// Hyperparameters of attention.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Number of query heads.
    pub heads: i32,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: i32,
    /// Dimension of each head.
    pub head_dim: i32,
    /// Scaling factor of the scores.
    pub scale: f32,
    /// Attention mask.
    pub mask: Mask,
    /// `c` of the softcap `c · tanh(scores / c)`.
    pub softcap: Option<f32>,
    /// Rotary position embedding; `None` for no position embedding
    /// ([NoPE](https://arxiv.org/abs/2305.19466)).
    pub rope: Option<Rope>,
}

/// Parameters of attention that only some architectures have.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttentionExtras<'a> {
    /// Norms of each query head and each key head.
    pub norms: Option<(&'a RmsNorm, &'a RmsNorm)>,
    /// Attention sinks, one score per head: `[heads]`.
    pub sinks: Option<&'a Array>,
}

impl Heads {
    /// Standard attention: scores are scaled by `1/√head_dim`, without a softcap.
    #[must_use]
    pub fn new(heads: i32, kv_heads: i32, head_dim: i32, mask: Mask, rope: Option<Rope>) -> Self {
        let scale = (head_dim as f32).sqrt().recip();
        Self { heads, kv_heads, head_dim, scale, mask, softcap: None, rope }
    }

    /// Output of the value projection that each output depends on; the first value is output number `first`.
    #[must_use]
    pub fn value_rows(&self, first: i32) -> Vec<usize> {
        let row = |head| first + head / (self.heads / self.kv_heads) * self.head_dim;
        let rows = (0..self.heads).flat_map(|head| (0..self.head_dim).map(move |i| row(head) + i));
        rows.map(|row| row as usize).collect()
    }

    /// `q`: `[batch, time, heads · head_dim]`, `k` and `v`: `[batch, time, kv_heads · head_dim]` → output
    /// `[batch, time, heads · head_dim]`.
    ///
    /// # Errors
    /// Incompatible shapes, or a cache of the wrong kind.
    pub fn forward(&self, [q, k, v]: [Array; 3], extras: AttentionExtras, context: Context) -> Result<Array> {
        let (batch, time) = (q.dim(0), q.dim(1));
        let heads = |y: &Array, heads: i32| y.reshape(&[batch, time, heads, self.head_dim]);
        let (mut q, mut k) = (q, k);
        if let Some((q_norm, k_norm)) = extras.norms {
            q = q_norm.forward(&heads(&q, self.heads)?)?;
            k = k_norm.forward(&heads(&k, self.kv_heads)?)?;
        }
        if let Some(attention_factor) = self.rope.as_ref().and_then(Rope::attention_factor) {
            q = heads(&q, self.heads)?.multiply(attention_factor.as_dtype(q.dtype())?)?;
        }
        let &Self { scale, mask, softcap, .. } = self;
        let scoring = Scoring { scale, mask, softcap, sinks: extras.sinks };
        let config = |rotation| {
            let &Self { heads, kv_heads, head_dim, .. } = self;
            AttentionConfig { heads, kv_heads, head_dim, rotation, scoring }
        };
        if let Context::Each(sequences) = context {
            return KvCache::attend_each(sequences, [&q, &k, &v], config(None), self.rope.as_ref());
        }
        let prefix = context.prefix();
        let before = prefix.map_or(0, |[k, _]| k.dim(1));
        let (cache, segments) = context.kv()?;
        let first = cache.as_ref().map_or(before, |cache| cache.len());
        let positions = segments.map_or(Positions::Offset(first), |texts| Positions::Ids(&texts.positions));
        let starts = segments.map(|texts| &texts.starts);
        let length = match (&cache, segments) {
            (Some(cache), _) => cache.text_length(time),
            (None, Some(texts)) => texts.longest,
            (None, None) => before + time,
        };
        let rotation = self.rope.as_ref().map(|rope| rope.rotation(length));
        let rotation = rotation.as_ref();
        if let Some(cache) = cache {
            return cache.attend([&q, &k, &v], config(rotation));
        }
        let (mut q, mut k) = (heads(&q, self.heads)?, heads(&k, self.kv_heads)?);
        let mut v = heads(&v, self.kv_heads)?;
        if let Some(rotation) = rotation {
            (q, k) = rope(&q, &k, rotation, positions)?;
        }
        if let Some([keys, values]) = prefix {
            (k, v) = (after(keys, &k)?, after(values, &v)?);
        }
        attention(&q, KeyValues::all(&k, &v), scoring, starts)?.reshape(&[batch, time, -1])
    }
}

/// Concatenates `before`, `[1, length, ...]`, broadcast to the batch, and `x`, `[batch, time, ...]`, along
/// time.
fn after(before: &Array, x: &Array) -> Result<Array> {
    let mut shape = before.shape().to_vec();
    shape[0] = x.dim(0);
    concatenate(&[&broadcast_to(before.as_dtype(x.dtype())?, &shape)?, x], 1)
}

/// Attention with Llama's parameter names, and optional parameters of later architectures.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Attention {
    /// Query projection.
    #[param]
    pub q_proj: Linear,
    /// Key projection.
    #[param]
    pub k_proj: Linear,
    /// Value projection.
    #[param]
    pub v_proj: Linear,
    /// Output projection.
    #[param]
    pub o_proj: Linear,
    /// Norm of each query head.
    #[param]
    pub q_norm: Option<RmsNorm>,
    /// Norm of each key head.
    #[param]
    pub k_norm: Option<RmsNorm>,
    /// Attention sinks, one score per head: `[heads]`.
    #[param]
    pub sinks: Param<Option<Array>>,
    /// Hyperparameters.
    pub heads: Heads,
}

/// Which projections have a bias.
#[derive(Debug, Clone, Copy, Default)]
pub struct Biases {
    /// Query, key and value projections.
    pub qkv: bool,
    /// Output projection.
    pub output: bool,
}

impl Attention {
    /// Creates zero-initialized projections, without head norms and sinks.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new(hidden: i32, heads: Heads, biases: Biases) -> Result<Self> {
        let (q, kv) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        Ok(Self {
            q_proj: Linear::new(hidden, q, biases.qkv)?,
            k_proj: Linear::new(hidden, kv, biases.qkv)?,
            v_proj: Linear::new(hidden, kv, biases.qkv)?,
            o_proj: Linear::new(q, hidden, biases.output)?,
            q_norm: None,
            k_norm: None,
            sinks: Param::new(None),
            heads,
        })
    }

    /// Adds a norm of each query and key head, applied before the rotary embedding.
    #[must_use]
    pub fn with_norms(mut self, norm: &RmsNorm) -> Self {
        (self.q_norm, self.k_norm) = (Some(norm.clone()), Some(norm.clone()));
        self
    }
}

impl Mixer for Attention {
    fn forward(&self, x: &Array, context: Context) -> Result<Array> {
        let qkv = forward_all(x, [&self.q_proj, &self.k_proj, &self.v_proj])?;
        let extras = AttentionExtras {
            norms: self.q_norm.as_ref().zip(self.k_norm.as_ref()),
            sinks: (*self.sinks).as_ref(),
        };
        self.o_proj.forward(&self.heads.forward(qkv, extras, context)?)
    }

    fn linears(&mut self) -> Linears<'_> {
        let Self { q_proj, k_proj, v_proj, o_proj, .. } = self;
        named([("q_proj", q_proj), ("k_proj", k_proj), ("v_proj", v_proj), ("o_proj", o_proj)])
    }

    fn flow(&self) -> Flow {
        Flow {
            readers: ["q_proj", "k_proj", "v_proj"].map(str::to_owned).to_vec(),
            scalings: vec![Scaling::between("v_proj", self.heads.value_rows(0), "o_proj")],
        }
    }
    fn heads(&self) -> Option<&Heads> {
        Some(&self.heads)
    }

    fn plain_heads(&self) -> Option<&Heads> {
        self.sinks.is_none().then_some(&self.heads)
    }
}
