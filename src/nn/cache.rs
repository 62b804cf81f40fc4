//! What a model remembers between calls while it generates.

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::{ConvState, Result};
use crate::kernels::append::append;
use crate::kernels::attention::Keys;

/// Keys and values of one attention layer, in buffers with room to spare.
///
/// A clone shares the buffers until either is written to, so keeping the state after a prompt costs
/// nothing.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    keys: Option<Array>,
    values: Option<Array>,
    len: i32,
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
        self.planned.max(self.len + more)
    }

    /// Positions stored; the position of the next token.
    #[must_use]
    pub fn len(&self) -> i32 {
        self.len
    }

    /// Whether nothing is stored yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `k`, `v`: `[batch, time, kv_heads, head_dim]`; returns all so far.
    ///
    /// # Errors
    /// Shapes that differ from those stored.
    pub fn update(&mut self, k: &Array, v: &Array) -> Result<Keys<'_>> {
        // Taken, not cloned: a buffer that nobody else holds is written in place.
        self.keys = Some(append(self.keys.take(), k, self.len)?);
        self.values = Some(append(self.values.take(), v, self.len)?);
        self.len += k.dim(1);
        match (&self.keys, &self.values) {
            (Some(k), Some(v)) => Ok(Keys { k, v, len: self.len }),
            _ => Err(Exception::custom("a cache without keys")),
        }
    }

    /// The stored arrays, to be evaluated with the logits so that no graph piles up.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.keys.iter().chain(&self.values)
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
    /// All stored arrays.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flat_map(LayerCache::arrays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    #[test]
    fn returns_everything_appended_in_order() {
        let mut cache = KvCache::default();
        let step = |n: i32, from: i32| {
            let values: Vec<f32> = (from..from + n).map(|i| i as f32).collect();
            Array::from_slice(&values, &[1, n, 1, 1])
        };
        for (n, from) in [(3, 0), (1, 3), (300, 4), (1, 304)] {
            let Keys { k, v, len } = cache.update(&step(n, from), &step(n, from)).unwrap();
            assert_eq!(len, from + n);
            eval([k, v]).unwrap();
            let expected: Vec<f32> = (0..len).map(|i| i as f32).collect();
            for array in [k, v] {
                assert_eq!(array.to_vec_exact::<f32>().unwrap()[..expected.len()], expected);
            }
        }
        assert_eq!(cache.len(), 305);
    }
}
