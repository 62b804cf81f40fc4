//! What a model remembers between calls while it generates.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{ConvState, Result};
use crate::kernels::append::append;
use crate::kernels::cached_attention::{Query, Store, cached_attention};

/// Keys and values of one attention layer, in buffers with room to spare.
///
/// A clone shares the buffers until either is written to, so keeping the state after a prompt costs
/// nothing.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    store: Store,
    planned: i32,
}

impl KvCache {
    /// An empty cache for a text of which `planned` tokens are known: long ones may turn otherwise than short ones, from
    /// the first position on.
    #[must_use]
    pub fn new(planned: i32) -> Self {
        Self { planned, ..Self::default() }
    }

    /// Length of the text after `more` positions, as far as it is known.
    #[must_use]
    pub fn text_length(&self, more: i32) -> i32 {
        self.planned.max(self.store.len + more)
    }

    /// Positions stored; the position of the next token.
    #[must_use]
    pub fn len(&self) -> i32 {
        self.store.len
    }

    /// Whether nothing is stored yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.store.len == 0
    }

    /// Appends `k`, `v` and lets `q` attend to all so far; shapes are those of [`cached_attention`].
    ///
    /// # Errors
    /// Shapes that do not fit each other or what is stored, which is then gone.
    pub fn attend(&mut self, qkv: [&Array; 3], query: Query) -> Result<Array> {
        cached_attention(qkv, query, &mut self.store)
    }

    /// Appends `k`, `v`: `[batch, time, kv_heads, head_dim]`.
    ///
    /// # Errors
    /// Shapes that differ from those stored, which are then gone.
    pub fn update(&mut self, k: &Array, v: &Array) -> Result<()> {
        // Taken, not cloned: a buffer that nobody else holds is written in place.
        let Store { k: old_k, v: old_v, len } = std::mem::take(&mut self.store);
        let count = k.dim(1);
        let (k, v) = (append(old_k, k, len)?, append(old_v, v, len)?);
        // Only now: what does not fit leaves nothing behind.
        self.store = Store { k: Some(k), v: Some(v), len: len + count };
        Ok(())
    }

    /// Counts one more position, which is stored already.
    fn advance(&mut self) {
        self.store.len += 1;
    }

    /// The stored arrays, to be evaluated with the logits so that no graph piles up.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.store.k.iter().chain(&self.store.v)
    }
}

/// What one layer remembers.
#[derive(Debug, Clone)]
pub enum LayerCache {
    /// Attention: keys and values.
    Kv(KvCache),
    /// Short convolution: its last inputs.
    Conv(ConvState),
}

impl LayerCache {
    /// The cache of an attention layer.
    ///
    /// # Errors
    /// A cache of another kind.
    pub fn kv(&mut self) -> Result<&mut KvCache> {
        match self {
            Self::Kv(cache) => Ok(cache),
            Self::Conv(_) => Err(Exception::custom("a convolution's cache for a layer of attention")),
        }
    }

    /// The cache of a short convolution.
    ///
    /// # Errors
    /// A cache of another kind.
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

/// One cache per layer, in order; a model makes an empty one.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// Indexed by layer.
    pub layers: Vec<LayerCache>,
}

impl Cache {
    /// Counts one more position, which a [tape](crate::kernels::tape) has stored behind the others.
    pub fn advance(&mut self) {
        for layer in &mut self.layers {
            if let LayerCache::Kv(cache) = layer {
                cache.advance();
            }
        }
    }

    /// All stored arrays.
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
        let query = Query { heads: 2, kv_heads: 1, head_dim: 16, rotation: None, scoring };
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
