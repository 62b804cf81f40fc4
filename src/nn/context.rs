//! What stands before the positions that a model reads.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{Cache, ConvState, KvCache, LayerCache, Result};

/// Where the texts of a batch begin. For a whole model by default a layer's part of it.
#[derive(Debug)]
pub enum Context<'a, C = LayerCache> {
    /// Each row is one text from its beginning.
    Whole,
    /// Each row is several texts, one after the other, that do not know of each other.
    Segmented(&'a Segments),
    /// Each row is one text from its beginning, after keys and values, `[1, keys, kv_heads, head_dim]`, of each layer;
    /// for a layer after its own.
    Prefixed(&'a [[Array; 2]]),
    /// Each row goes on where the last call ended.
    Cached(&'a mut C),
}

/// Texts packed into rows: none looks across its start, and each counts its positions from zero.
#[derive(Debug, Clone)]
pub struct Segments {
    /// The column in which the text of each column begins, `[batch, time]`, i32.
    pub starts: Array,
    /// Columns since then, `[batch, time]`, i32.
    pub positions: Array,
    /// Positions of the longest text.
    pub longest: i32,
}

impl Segments {
    /// `starts`: row-major `[batch, time]`, the column in which the text of each column begins.
    ///
    /// # Errors
    /// Numbers that are not `batch · time`, or a text that begins after its column.
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

    /// 1 where a text has a position `before` columns earlier, else 0: `[batch, time, 1]` of `dtype`.
    ///
    /// # Errors
    /// What MLX raises.
    pub fn reaches(&self, before: i32, dtype: Dtype) -> Result<Array> {
        self.positions.ge(Array::from_int(before))?.as_dtype(dtype)?.expand_dims(-1)
    }
}

impl Context<'_, Cache> {
    /// The part of layer number `layer`.
    pub fn layer(&mut self, layer: usize) -> Context<'_> {
        match self {
            Self::Whole => Context::Whole,
            Self::Segmented(segments) => Context::Segmented(segments),
            Self::Prefixed(keys) => Context::Prefixed(&keys[layer..=layer]),
            Self::Cached(cache) => Context::Cached(&mut cache.layers[layer]),
        }
    }
}

impl<'a> Context<'a> {
    /// Keys and values before the text.
    #[must_use]
    pub fn prefix(&self) -> Option<&'a [Array; 2]> {
        match self {
            Self::Prefixed(keys) => keys.first(),
            _ => None,
        }
    }

    /// For attention: its cache, and the segments.
    ///
    /// # Errors
    /// A cache of another kind.
    pub fn kv(self) -> Result<(Option<&'a mut KvCache>, Option<&'a Segments>)> {
        Ok(match self {
            Self::Whole | Self::Prefixed(_) => (None, None),
            Self::Segmented(segments) => (None, Some(segments)),
            Self::Cached(cache) => (Some(cache.kv()?), None),
        })
    }

    /// For a short convolution: its last inputs, and the segments.
    ///
    /// # Errors
    /// A cache of another kind; keys before the text.
    pub fn conv(self) -> Result<(Option<&'a mut ConvState>, Option<&'a Segments>)> {
        Ok(match self {
            Self::Whole => (None, None),
            Self::Segmented(segments) => (None, Some(segments)),
            Self::Prefixed(_) => return Err(Exception::custom("keys before a convolution")),
            Self::Cached(cache) => (Some(cache.conv()?), None),
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
