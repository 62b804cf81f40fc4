//! The context that a sequence is read in: caches, packing and prefixes.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{Cache, ConvState, KvCache, LayerCache, Result, Sequences};

/// What precedes the positions of a batch: for a whole model (`C` is [`Cache`]) or for one layer (`C` is
/// [`LayerCache`]).
#[derive(Debug)]
pub enum Context<'a, C = LayerCache> {
    /// Each row is a sequence from its start.
    Whole,
    /// Each row is several packed sequences, which do not attend to each other.
    Segmented(&'a Segments),
    /// Each row is a sequence from its start, after a prefix of keys and values `[1, length, kv_heads,
    /// head_dim]` per layer.
    Prefixed(&'a [[Array; 2]]),
    /// Each row continues the sequence of a cache.
    Cached(&'a mut C),
    /// One row of several parts, each of which continues a sequence.
    Each(Sequences<'a, C>),
}

/// Sequences packed into rows. None attends across its start, and each counts its positions from zero.
#[derive(Debug, Clone)]
pub struct Segments {
    /// Column where the sequence of each column starts, `[batch, time]`, int32.
    pub starts: Array,
    /// Position of each column within its sequence, `[batch, time]`, int32.
    pub positions: Array,
    /// Length of the longest sequence.
    pub longest: i32,
}

impl Segments {
    /// `starts`: the column where the sequence of each column starts, row-major `[batch, time]`.
    ///
    /// # Errors
    /// A length other than `batch · time`, or a sequence that starts after its column.
    pub fn new(starts: &[i32], batch: i32, time: i32) -> Result<Self> {
        if starts.len() != (batch * time).unsigned_abs() as usize {
            return Err(Exception::custom(format!(
                "segments: {} starts for {batch} rows of {time}",
                starts.len()
            )));
        }
        let columns = (0..batch).flat_map(|_| 0..time);
        let positions: Vec<i32> = columns.zip(starts).map(|(column, start)| column - start).collect();
        if positions.iter().zip(starts).any(|(&position, &start)| position < 0 || start < 0) {
            return Err(Exception::custom("segments: a text begins before its row or after its column"));
        }
        Ok(Self {
            starts: Array::from_slice(starts, &[batch, time]),
            positions: Array::from_slice(&positions, &[batch, time]),
            longest: positions.iter().max().map_or(0, |last| last + 1),
        })
    }

    /// Mask of the columns that have a position `before` columns earlier in their sequence, 1 or 0: `[batch,
    /// time, 1]` in `dtype`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn reaches(&self, before: i32, dtype: Dtype) -> Result<Array> {
        self.positions.ge(Array::from_int(before))?.as_dtype(dtype)?.expand_dims(-1)
    }
}

impl Context<'_, Cache> {
    /// Returns the context of layer number `layer`.
    pub fn layer(&mut self, layer: usize) -> Context<'_> {
        match self {
            Self::Whole => Context::Whole,
            Self::Segmented(segments) => Context::Segmented(segments),
            Self::Prefixed(keys) => Context::Prefixed(&keys[layer..=layer]),
            Self::Cached(cache) => Context::Cached(&mut cache.layers[layer]),
            Self::Each(Sequences { caches, counts }) => Context::Each(Sequences {
                caches: caches.iter_mut().map(|cache| &mut cache.layers[layer]).collect(),
                counts,
            }),
        }
    }
}

impl<'a> Context<'a> {
    /// The prefix of keys and values.
    #[must_use]
    pub fn prefix(&self) -> Option<&'a [Array; 2]> {
        match self {
            Self::Prefixed(keys) => keys.first(),
            _ => None,
        }
    }

    /// Returns the cache and the segments of an attention layer.
    ///
    /// # Errors
    /// A cache of the wrong kind.
    pub fn kv(self) -> Result<(Option<&'a mut KvCache>, Option<&'a Segments>)> {
        Ok(match self {
            Self::Whole | Self::Prefixed(_) => (None, None),
            Self::Segmented(segments) => (None, Some(segments)),
            Self::Cached(cache) => (Some(cache.kv()?), None),
            Self::Each(_) => return Err(Exception::custom("several sequences as one")),
        })
    }

    /// Returns the state and the segments of a short convolution.
    ///
    /// # Errors
    /// A cache of the wrong kind, or a prefix of keys and values.
    pub fn conv(self) -> Result<(Option<&'a mut ConvState>, Option<&'a Segments>)> {
        Ok(match self {
            Self::Whole => (None, None),
            Self::Segmented(segments) => (None, Some(segments)),
            Self::Prefixed(_) => return Err(Exception::custom("keys before a convolution")),
            Self::Cached(cache) => (Some(cache.conv()?), None),
            Self::Each(_) => return Err(Exception::custom("several sequences as one")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    #[test]
    fn positions_count_from_each_start() {
        let segments = Segments::new(&[0, 0, 2, 2, 0, 1, 1, 3], 2, 4).unwrap();
        let reached = segments.reaches(1, Dtype::Float32).unwrap();
        eval([&segments.positions, &reached]).unwrap();
        assert_eq!(segments.positions.as_slice::<i32>(), [0, 1, 0, 1, 0, 0, 1, 0]);
        assert_eq!(reached.as_slice::<f32>(), [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!((segments.longest, reached.shape()), (2, &[2, 4, 1][..]));
    }

    #[test]
    fn starts_that_cannot_be_are_refused() {
        for (starts, reason) in [
            (&[0, 0, 0][..], "3 starts for 1 rows of 2"),
            (&[0, 2], "after its column"),
            (&[0, -1], "before its row"),
        ] {
            let error = Segments::new(starts, 1, 2).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
