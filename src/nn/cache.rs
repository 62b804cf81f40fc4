//! What a model remembers between calls while it generates.

use mlx_rs::Array;

use mlx_rs::ops::indexing::{TryIndexMutOp as _, TryIndexOp as _};
use mlx_rs::ops::{concatenate, zeros_dtype};

use super::Result;

/// Keys and values of one attention layer, grown in blocks.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    keys: Option<Array>,
    values: Option<Array>,
    len: i32,
}

/// Positions added when the buffer is full: growing copies it, so not one by one.
const BLOCK: u32 = 256;

impl KvCache {
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

    /// Appends `k`, `v`: `[batch, kv_heads, time, head_dim]`; returns all so far,
    /// `[batch, kv_heads, len, head_dim]`.
    ///
    /// # Errors
    /// Shapes that differ from those stored.
    pub fn update(&mut self, k: Array, v: Array) -> Result<(Array, Array)> {
        let (start, end) = (self.len, self.len + k.dim(2));
        self.len = end;
        let append = |slot: &mut Option<Array>, new: Array| -> Result<Array> {
            let mut buffer = grow(slot.take(), &new, end)?;
            buffer.try_index_mut((.., .., start..end, ..), new)?;
            let seen = buffer.try_index((.., .., ..end, ..))?;
            *slot = Some(buffer);
            Ok(seen)
        };
        Ok((append(&mut self.keys, k)?, append(&mut self.values, v)?))
    }

    /// The stored arrays, to be evaluated with the logits so that no graph piles up.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.keys.iter().chain(&self.values)
    }
}

/// A buffer with room for `end` positions that starts with the content of `buffer`.
fn grow(buffer: Option<Array>, new: &Array, end: i32) -> Result<Array> {
    let room = buffer.as_ref().map_or(0, |buffer| buffer.dim(2));
    let fresh = |positions: i32| {
        let mut shape = new.shape().to_vec();
        shape[2] = positions.unsigned_abs().next_multiple_of(BLOCK).cast_signed();
        zeros_dtype(&shape, new.dtype())
    };
    match buffer {
        Some(buffer) if room >= end => Ok(buffer),
        Some(buffer) => concatenate(&[buffer, fresh(end - room)?], 2),
        None => fresh(end),
    }
}

/// One cache per layer, in order.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// Indexed by layer.
    pub layers: Vec<KvCache>,
}

impl Cache {
    /// An empty cache for `layers` attention layers.
    #[must_use]
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![KvCache::default(); layers] }
    }

    /// All stored arrays.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flat_map(KvCache::arrays)
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
            Array::from_slice(&values, &[1, 1, n, 1])
        };
        let mut seen = None;
        for (n, from) in [(3, 0), (1, 3), (300, 4), (1, 304)] {
            seen = Some(cache.update(step(n, from), step(n, from)).unwrap());
        }
        let (k, v) = seen.unwrap();
        eval([&k, &v]).unwrap();
        let expected: Vec<f32> = (0..305).map(|i| i as f32).collect();
        assert_eq!(k.to_vec_exact::<f32>().unwrap(), expected);
        assert_eq!(v.to_vec_exact::<f32>().unwrap(), expected);
        assert_eq!(cache.len(), 305);
    }
}
