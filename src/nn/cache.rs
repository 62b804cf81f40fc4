//! Caches of autoregressive generation.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp as _;

use super::quantized_cache::OlderPositions;
use super::{Result, Rope, Sequences};
use crate::kernels::append::append;
use crate::kernels::attention::Mask;
use crate::kernels::cached_attention::{
    AttentionConfig, CachedSequence, KeyValueBuffers, cached_attention, cached_attention_each,
};
use crate::kernels::quantized::Format;
use crate::kernels::rope::{Positions, rope};

/// Key-value cache of one attention layer, in buffers with spare capacity.
///
/// A clone shares the buffers until either is written to, so keeping the state after a prompt is free.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    /// All positions, or the last ones.
    pub(super) store: KeyValueBuffers,
    pub(super) planned: i32,
    /// The positions before those of `store`, if they are quantized.
    pub(super) older: Option<OlderPositions>,
    /// Positions before the next one that its query attends to; all that are no longer stored are before those.
    pub(super) reach: Option<i32>,
}

/// Positions that no query attends to any longer and are stored nevertheless: dropping them copies the others.
const SPARE: i32 = 256;

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
        self.planned.max(self.len() + more)
    }

    /// Number of cached positions, which is the position of the next token.
    #[must_use]
    pub fn len(&self) -> i32 {
        self.older.as_ref().map_or(self.store.skipped, OlderPositions::len) + self.store.len
    }

    /// Whether nothing is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Quantizes all positions but the first and the last ones to `format`, once there are many. Keys and values of one
    /// position, `kv_heads · head_dim` numbers, must be whole groups.
    pub fn quantize(&mut self, format: Format) {
        self.older.get_or_insert_with(|| OlderPositions::new(format));
    }

    /// Appends `k` and `v` and returns the attention output of `q` over all cached positions; shapes are
    /// those of [`cached_attention`].
    ///
    /// # Errors
    /// Incompatible shapes. The cache is then empty.
    pub fn attend(&mut self, qkv: [&Array; 3], query: AttentionConfig) -> Result<Array> {
        self.make_room(query.scoring.mask)?;
        let Some(older) = self.older.as_ref().filter(|older| older.len() > 0) else {
            return cached_attention(qkv, query, &mut self.store);
        };
        let AttentionConfig { heads, kv_heads, head_dim, .. } = query;
        let [q, k, v] = qkv;
        let split = |x: &Array, heads: i32| x.reshape(&[x.dim(0), x.dim(1), heads, head_dim]);
        let (mut q, mut k, v) = (split(q, heads)?, split(k, kv_heads)?, split(v, kv_heads)?);
        if let Some(rotation) = query.rotation {
            (q, k) = rope(&q, &k, rotation, Positions::Offset(older.len() + self.store.len))?;
        }
        append_rows(&mut self.store, &k, &v)?;
        older.attend(&q, &self.store, query)
    }

    /// [`attend`](Self::attend) of several sequences, whose positions follow each other in `qkv`; `query` is without
    /// rotation.
    ///
    /// # Errors
    /// Incompatible shapes, or a cache of the wrong kind.
    pub fn attend_each(
        sequences: Sequences<LayerCache>,
        qkv: [&Array; 3],
        query: AttentionConfig,
        rope: Option<&Rope>,
    ) -> Result<Array> {
        let Sequences { caches, counts } = sequences;
        let mut caches = caches.into_iter().map(LayerCache::kv).collect::<Result<Vec<_>>>()?;
        for cache in &mut caches {
            cache.make_room(query.scoring.mask)?;
        }
        let rotations: Vec<_> = (caches.iter().zip(counts))
            .map(|(cache, &count)| rope.map(|rope| rope.rotation(cache.text_length(count))))
            .collect();
        if caches.iter().all(|cache| cache.older.as_ref().is_none_or(|older| older.len() == 0)) {
            let mut sequences: Vec<_> = (caches.into_iter().zip(counts).zip(&rotations))
                .map(|((cache, &time), rotation)| CachedSequence {
                    time,
                    rotation: rotation.as_ref(),
                    store: &mut cache.store,
                })
                .collect();
            return cached_attention_each(qkv, query, &mut sequences);
        }
        let mut rotations = rotations.iter();
        Sequences { caches, counts }.map(|cache, columns| {
            let rows = |x: &Array| x.try_index((.., columns.clone()));
            let qkv = [rows(qkv[0])?, rows(qkv[1])?, rows(qkv[2])?];
            let rotation = rotations.next().and_then(Option::as_ref);
            cache.attend([&qkv[0], &qkv[1], &qkv[2]], AttentionConfig { rotation, ..query })
        })
    }

    /// Quantizes or drops positions, where there are enough of those that may be.
    fn make_room(&mut self, mask: Mask) -> Result<()> {
        if let Some(older) = &mut self.older {
            return older.take_from(&mut self.store);
        }
        let Mask::Sliding(window) = mask else { return Ok(()) };
        let reach = window - 1;
        self.reach = Some(reach);
        let KeyValueBuffers { k: Some(k), v: Some(v), len, skipped } = &mut self.store else { return Ok(()) };
        let unreachable = *len - reach;
        if unreachable < reach.max(SPARE) {
            return Ok(());
        }
        let rest = |x: &Array| x.try_index((.., unreachable..*len))?.contiguous();
        (*k, *v) = (rest(k)?, rest(v)?);
        (*skipped, *len) = (*skipped + unreachable, reach);
        Ok(())
    }

    /// Smallest number of positions that it can be [cut](Self::truncate) to.
    fn shortest(&self) -> i32 {
        let dropped = self.len() - self.store.len;
        let reach = if self.store.skipped > 0 { self.reach.unwrap_or(i32::MAX) } else { 0 };
        if dropped > 0 { dropped.saturating_add(reach) } else { 0 }
    }

    /// Forgets all positions from `len` on. Returns false, without any effect, if positions before those would be
    /// needed that are no longer stored.
    fn truncate(&mut self, len: i32) -> bool {
        let is_possible = len >= self.shortest();
        if is_possible {
            let dropped = self.len() - self.store.len;
            self.store.len = self.store.len.min(len - dropped);
        }
        is_possible
    }

    /// Appends `k` and `v`: `[batch, time, kv_heads, head_dim]`.
    ///
    /// # Errors
    /// Shapes that differ from the cached ones. The cache is then empty.
    pub fn update(&mut self, k: &Array, v: &Array) -> Result<()> {
        append_rows(&mut self.store, k, v)
    }

    /// Counts one more position, which has been stored already.
    fn advance(&mut self) {
        self.store.len += 1;
    }

    /// The cached arrays, to be evaluated together with the logits, so that graphs do not accumulate.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        let older = self.older.iter().flat_map(OlderPositions::arrays);
        self.store.k.iter().chain(&self.store.v).chain(older)
    }
}

/// Appends `k` and `v`: `[batch, time, kv_heads, head_dim]`.
fn append_rows(store: &mut KeyValueBuffers, k: &Array, v: &Array) -> Result<()> {
    // Taken, not cloned: a buffer without other references is written in place.
    let KeyValueBuffers { k: old_k, v: old_v, len, skipped } = std::mem::take(store);
    let count = k.dim(1);
    let (k, v) = (append(old_k, k, len)?, append(old_v, v, len)?);
    // Only now, so that an error leaves an empty cache.
    *store = KeyValueBuffers { k: Some(k), v: Some(v), len: len + count, skipped };
    Ok(())
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

    /// Quantizes the keys and values of all layers to `format`; see [`KvCache::quantize`].
    pub fn quantize(&mut self, format: Format) {
        for layer in &mut self.layers {
            if let LayerCache::Kv(cache) = layer {
                cache.quantize(format);
            }
        }
    }

    /// Forgets all positions from `len` on. Returns false, without any effect, if a layer no longer knows its state
    /// at `len`.
    pub fn truncate(&mut self, len: i32) -> bool {
        let mut shorter = self.clone();
        let is_possible = shorter.layers.iter_mut().all(|layer| match layer {
            LayerCache::Kv(cache) => cache.truncate(len),
            // Its last inputs are gone.
            LayerCache::Conv(_) => self.positions() == Some(len),
        });
        if is_possible {
            *self = shorter;
        }
        is_possible
    }

    /// Smallest number of positions that it can be [cut](Self::truncate) to; `None` if it cannot be cut at all.
    #[must_use]
    pub fn shortest(&self) -> Option<i32> {
        let shortest = self.layers.iter().map(|layer| match layer {
            LayerCache::Kv(cache) => Some(cache.shortest()),
            LayerCache::Conv(_) => None,
        });
        shortest.reduce(|a, b| Some(a?.max(b?))).flatten()
    }

    /// Number of cached positions; `None` without any layer of attention.
    #[must_use]
    pub fn positions(&self) -> Option<i32> {
        self.layers.iter().find_map(|layer| match layer {
            LayerCache::Kv(cache) => Some(cache.len()),
            LayerCache::Conv(_) => None,
        })
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
    fn older_positions_are_quantized_and_attended_to() {
        let scoring = Scoring::plain(0.25, Mask::Causal);
        let query = AttentionConfig { heads: 4, kv_heads: 2, head_dim: 16, rotation: None, scoring };
        let of = |from: i32, to: i32, width: i32, seed: f32| {
            let values: Vec<f32> =
                (from * width..to * width).map(|i| (i as f32 * 0.7 + seed).sin()).collect();
            Array::from_slice(&values, &[1, to - from, width])
        };
        let attend = |cache: &mut KvCache, from: i32, to: i32| {
            let qkv = [of(from, to, 64, 0.0), of(from, to, 32, 1.0), of(from, to, 32, 2.0)];
            let y = cache.attend([&qkv[0], &qkv[1], &qkv[2]], query).unwrap();
            eval([&y].into_iter().chain(cache.arrays())).unwrap();
            y.as_slice::<f32>().to_vec()
        };
        for (bits, tolerance) in [(8, 0.01), (4, 0.15)] {
            let (mut exact, mut quantized) = (KvCache::default(), KvCache::default());
            quantized.quantize(Format::affine(bits, 32).unwrap());
            for (from, to) in [(0, 300), (300, 301), (301, 700), (700, 701)] {
                let (expected, found) = (attend(&mut exact, from, to), attend(&mut quantized, from, to));
                for (expected, found) in expected.iter().zip(&found) {
                    assert!(
                        (expected - found).abs() < tolerance,
                        "{bits} bits at {from}: {found}, not {expected}"
                    );
                }
                assert_eq!(quantized.len(), exact.len());
            }
            let bytes = |cache: &KvCache| cache.arrays().map(Array::nbytes).sum::<usize>();
            assert!(bytes(&quantized) * 3 < bytes(&exact) * 2, "{} of {}", bytes(&quantized), bytes(&exact));
        }
    }

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
