//! Caches of autoregressive generation.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::Result;
use crate::kernels::append::append;
use crate::kernels::cached_attention::{AttentionConfig, KeyValueBuffers, cached_attention};

/// Key-value cache of one attention layer, in buffers with spare capacity.
///
/// A clone shares the buffers until either is written to, so keeping the state after a prompt is free.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    store: KeyValueBuffers,
    planned: i32,
}

impl KvCache {
    /// Creates an empty cache for a sequence of which `planned` tokens are known in advance: with `LongRoPE` and
    /// dynamic scaling, their number decides about rotations from the first position on.
    #[must_use]
    pub fn new(planned: i32) -> Self {
        Self { planned, ..Self::default() }
    }

    /// Sequence length after `more` positions, as far as it is known.
    #[must_use]
    pub fn text_length(&self, more: i32) -> i32 {
        self.planned.max(self.store.len + more)
    }

    /// Number of cached positions, which is the position of the next token.
    #[must_use]
    pub fn len(&self) -> i32 {
        self.store.len
    }

    /// Whether nothing is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.store.len == 0
    }

    /// Appends `k` and `v` and returns the attention output of `q` over all cached positions; shapes are
    /// those of [`cached_attention`].
    ///
    /// # Errors
    /// Incompatible shapes. The cache is then empty.
    pub fn attend(&mut self, qkv: [&Array; 3], query: AttentionConfig) -> Result<Array> {
        cached_attention(qkv, query, &mut self.store)
    }

    /// Appends `k` and `v`: `[batch, time, kv_heads, head_dim]`.
    ///
    /// # Errors
    /// Shapes that differ from the cached ones. The cache is then empty.
    pub fn update(&mut self, k: &Array, v: &Array) -> Result<()> {
        // Taken, not cloned: a buffer without other references is written in place.
        let KeyValueBuffers { k: old_k, v: old_v, len } = std::mem::take(&mut self.store);
        let count = k.dim(1);
        let (k, v) = (append(old_k, k, len)?, append(old_v, v, len)?);
        // Only now, so that an error leaves an empty cache.
        self.store = KeyValueBuffers { k: Some(k), v: Some(v), len: len + count };
        Ok(())
    }

    /// Counts one more position, which has been stored already.
    fn advance(&mut self) {
        self.store.len += 1;
    }

    /// The cached arrays, to be evaluated together with the logits, so that graphs do not accumulate.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.store.k.iter().chain(&self.store.v)
    }
}

/// The last inputs, which the next positions still depend on.
#[derive(Debug, Clone, Default)]
pub struct ConvState {
    /// `[batch, taps - 1, hidden]`.
    pub(super) last: Option<Array>,
}

/// Cache of one layer.
#[derive(Debug, Clone)]
pub enum LayerCache {
    /// Keys and values of attention.
    Kv(KvCache),
    /// Last inputs of a short convolution.
    Conv(ConvState),
}

impl LayerCache {
    /// Returns the cache of an attention layer.
    ///
    /// # Errors
    /// A cache of the wrong kind.
    pub fn kv(&mut self) -> Result<&mut KvCache> {
        match self {
            Self::Kv(cache) => Ok(cache),
            Self::Conv(_) => Err(Exception::custom("a convolution's cache for a layer of attention")),
        }
    }

    /// Returns the cache of a short convolution.
    ///
    /// # Errors
    /// A cache of the wrong kind.
    pub fn conv(&mut self) -> Result<&mut ConvState> {
        match self {
            Self::Conv(state) => Ok(state),
            Self::Kv(_) => Err(Exception::custom("a cache of attention for a convolution")),
        }
    }

    fn arrays(&self) -> Vec<&Array> {
        match self {
            Self::Kv(cache) => cache.arrays().collect(),
            Self::Conv(state) => state.last.iter().collect(),
        }
    }
}

/// Caches of all layers of a model, which creates them.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// Indexed by layer.
    pub layers: Vec<LayerCache>,
}

impl Cache {
    /// Counts one more position, which a [tape](crate::kernels::tape) has stored already.
    pub fn advance(&mut self) {
        for layer in &mut self.layers {
            if let LayerCache::Kv(cache) = layer {
                cache.advance();
            }
        }
    }

    /// All cached arrays.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flat_map(LayerCache::arrays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::{Mask, Scoring};
    use crate::kernels::eval;

    #[test]
    fn token_by_token_is_all_at_once() {
        let scoring = Scoring::plain(0.25, Mask::Causal);
        let query = AttentionConfig { heads: 2, kv_heads: 1, head_dim: 16, rotation: None, scoring };
        let of = |from: i32, to: i32, width: i32| {
            let values: Vec<f32> = (from * width..to * width).map(|i| (i as f32 * 0.7).sin()).collect();
            Array::from_slice(&values, &[1, to - from, width])
        };
        let attend = |cache: &mut KvCache, from: i32, to: i32| {
            let y = cache.attend([&of(from, to, 32), &of(from, to, 16), &of(from, to, 16)], query).unwrap();
            eval([&y]).unwrap();
            y.as_slice::<f32>().to_vec()
        };
        let mut cache = KvCache::default();
        let all = attend(&mut cache, 0, 5);
        let (kept, mut cache) = (cache, KvCache::default());
        for i in 0..5_usize {
            let one = attend(&mut cache, i as i32, i as i32 + 1);
            for (x, expected) in one.iter().zip(&all[i * 32..]) {
                assert!((x - expected).abs() < 1e-6, "{i}: {x}, not {expected}");
            }
        }
        assert_eq!((cache.len(), kept.len(), kept.is_empty()), (5, 5, false));
    }
}
