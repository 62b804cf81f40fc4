//! Self-attention with grouped queries ([GQA](https://arxiv.org/abs/2305.13245)).

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::module::Param;
use mlx_rs::ops::{broadcast_to, concatenate};

use super::layer::{Linears, Mixer, named};
use super::linear::forward_all;
use super::{Context, Linear, Result, RmsNorm, Rope};
use crate::kernels::attention::{Keys, Mask, Scoring, attention};
use crate::kernels::cached_attention::Query;
use crate::kernels::rope::{Positions, rope};

/// Everything about attention that is not a parameter.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Of queries.
    pub heads: i32,
    /// Of keys and values; divides `heads`.
    pub kv_heads: i32,
    /// Numbers per head.
    pub head_dim: i32,
    /// Factor of the scores.
    pub scale: f32,
    /// Which keys a query sees.
    pub mask: Mask,
    /// `c` of `c · tanh(scores / c)`.
    pub softcap: Option<f32>,
    /// How positions enter; `None` where they do not
    /// ([NoPE](https://arxiv.org/abs/2305.19466)).
    pub rope: Option<Rope>,
}

/// What some families learn beside the projections.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttentionExtras<'a> {
    /// Norms of each head of the queries and of the keys.
    pub norms: Option<(&'a RmsNorm, &'a RmsNorm)>,
    /// One score per head for nothing at all, `[heads]`.
    pub sinks: Option<&'a Array>,
}

impl Heads {
    /// Plain heads: scores over the root of `head_dim`, no softcap.
    #[must_use]
    pub fn new(heads: i32, kv_heads: i32, head_dim: i32, mask: Mask, rope: Option<Rope>) -> Self {
        let scale = (head_dim as f32).sqrt().recip();
        Self { heads, kv_heads, head_dim, scale, mask, softcap: None, rope }
    }

    /// `q`: `[batch, time, heads · head_dim]`, `k`, `v`: `[batch, time, kv_heads · head_dim]` → as `q`.
    ///
    /// # Errors
    /// Shapes that do not fit; a cache of another kind.
    pub fn forward(&self, [q, k, v]: [Array; 3], extras: AttentionExtras, context: Context) -> Result<Array> {
        let (batch, time) = (q.dim(0), q.dim(1));
        let heads = |y: &Array, heads: i32| y.reshape(&[batch, time, heads, self.head_dim]);
        let prefix = context.prefix();
        let before = prefix.map_or(0, |[k, _]| k.dim(1));
        let (cache, segments) = context.kv()?;
        let first = cache.as_ref().map_or(before, |cache| cache.len());
        let positions = segments.map_or(Positions::From(first), |texts| Positions::Each(&texts.positions));
        let starts = segments.map(|texts| &texts.starts);
        let length = match (&cache, segments) {
            (Some(cache), _) => cache.text_length(time),
            (None, Some(texts)) => texts.longest,
            (None, None) => before + time,
        };
        let (mut q, mut k) = (q, k);
        if let Some((q_norm, k_norm)) = extras.norms {
            q = q_norm.forward(&heads(&q, self.heads)?)?;
            k = k_norm.forward(&heads(&k, self.kv_heads)?)?;
        }
        if let Some(attention_factor) = self.rope.as_ref().and_then(Rope::attention_factor) {
            q = heads(&q, self.heads)?.multiply(attention_factor.as_dtype(q.dtype())?)?;
        }
        let rotation = self.rope.as_ref().map(|rope| rope.rotation(length));
        let &Self { scale, mask, softcap, .. } = self;
        let scoring = Scoring { scale, mask, softcap, sinks: extras.sinks };
        if let Some(cache) = cache {
            let &Self { heads, kv_heads, head_dim, .. } = self;
            return cache.attend([&q, &k, &v], Query { heads, kv_heads, head_dim, rotation, scoring });
        }
        let (mut q, mut k) = (heads(&q, self.heads)?, heads(&k, self.kv_heads)?);
        let mut v = heads(&v, self.kv_heads)?;
        if let Some(rotation) = rotation {
            (q, k) = rope(&q, &k, rotation, positions)?;
        }
        if let Some([keys, values]) = prefix {
            (k, v) = (after(keys, &k)?, after(values, &v)?);
        }
        attention(&q, Keys::all(&k, &v), scoring, starts)?.reshape(&[batch, time, -1])
    }
}

/// `x`: `[batch, time, ...]` after `before`, `[1, more time, ...]`.
fn after(before: &Array, x: &Array) -> Result<Array> {
    let mut shape = before.shape().to_vec();
    shape[0] = x.dim(0);
    concatenate(&[&broadcast_to(before.as_dtype(x.dtype())?, &shape)?, x], 1)
}

/// Attention with the layers and names of Llama, and what its descendants added.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Attention {
    /// Queries.
    #[param]
    pub q_proj: Linear,
    /// Keys.
    #[param]
    pub k_proj: Linear,
    /// Values.
    #[param]
    pub v_proj: Linear,
    /// Back to `hidden`.
    #[param]
    pub o_proj: Linear,
    /// Of each head of the queries.
    #[param]
    pub q_norm: Option<RmsNorm>,
    /// Of each head of the keys.
    #[param]
    pub k_norm: Option<RmsNorm>,
    /// One score per head for nothing at all, `[heads]`.
    #[param]
    pub sinks: Param<Option<Array>>,
    /// The rest.
    pub heads: Heads,
}

/// Which projections have a bias.
#[derive(Debug, Clone, Copy, Default)]
pub struct Biases {
    /// Those of queries, keys and values.
    pub qkv: bool,
    /// The one back to `hidden`.
    pub output: bool,
}

impl Attention {
    /// Layers of zeros to be filled from a checkpoint, without norms and sinks.
    ///
    /// # Errors
    /// What MLX raises.
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

    /// With a norm of each head of queries and keys before positions enter.
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
}
