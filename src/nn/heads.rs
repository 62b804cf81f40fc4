//! What attention computes with queries, keys and values.

use mlx_rs::Array;
use mlx_rs::ops::{broadcast_to, concatenate};

use super::units::{Rows, Units};
use super::{Context, KvCache, Result, RmsNorm, Rope};
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

    /// Groups of query heads, each with its key and value head, which the outputs of `layers` from the given ones on give:
    /// queries, keys, values; `reader` reads what they attend to.
    #[must_use]
    pub fn groups(&self, layers: [(&str, i32); 3], reader: &str) -> Units {
        let queries = (self.heads / self.kv_heads * self.head_dim) as usize;
        let [q, k, v] = layers.map(|(path, first)| Rows::new(path, first as usize, self.head_dim as usize));
        Units {
            count: self.kv_heads as usize,
            rows: vec![Rows { size: queries, ..q }, k, v],
            vectors: Vec::new(),
            reader: reader.to_owned(),
            columns: queries,
        }
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
