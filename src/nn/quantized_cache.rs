//! Quantized keys and values: all cached positions but the first and the last ones.
//!
//! The first positions attract much of the attention whatever the text
//! ([attention sinks](https://arxiv.org/abs/2309.17453)), and the last ones are read soon, so both stay exact.

use mlx_rs::error::Exception;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};

use super::Result;
use crate::kernels::attention::{KeyValues, attention};
use crate::kernels::cached_attention::{AttentionConfig, KeyValueBuffers};
use crate::kernels::quantized::{Format, PackedWeight, embedding, quantize};

/// First positions that stay exact.
pub(super) const FIRST: i32 = 32;
/// Last positions that stay exact, at least.
const LAST: i32 = 64;
/// Exact positions at which the oldest of them are quantized.
const MOST: i32 = 256;

/// The older positions of a cache.
#[derive(Debug, Clone)]
pub(super) struct OlderPositions {
    pub(super) format: Format,
    /// Exact keys and values, each `[batch, FIRST, kv_heads, head_dim]`.
    pub(super) first: Option<[Array; 2]>,
    /// Those that follow.
    pub(super) packed: Option<[Rows; 2]>,
    pub(super) len: i32,
}

/// Quantized rows, one per sequence and position.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    /// `[batch, positions, words]`.
    pub(super) codes: Array,
    /// `[batch, positions, groups]`.
    pub(super) scales: Array,
    /// As `scales`.
    pub(super) biases: Array,
}

impl OlderPositions {
    /// Creates an empty store that quantizes to `format`.
    pub(super) fn new(format: Format) -> Self {
        Self { format, first: None, packed: None, len: 0 }
    }

    /// Number of positions.
    pub(super) fn len(&self) -> i32 {
        self.len
    }

    /// All arrays.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        let packed = self.packed.iter().flatten();
        let packed = packed.flat_map(|Rows { codes, scales, biases }| [codes, scales, biases]);
        self.first.iter().flatten().chain(packed)
    }

    /// Attention of `q` over these positions and those of `recent`; `q`: `[batch, time, heads, head_dim]`.
    pub(super) fn attend(
        &self,
        q: &Array,
        recent: &KeyValueBuffers,
        query: AttentionConfig,
    ) -> Result<Array> {
        let [k, v] = self.with(recent)?;
        let keys = KeyValues { k: &k, v: &v, len: self.len + recent.len };
        attention(q, keys, query.scoring, None)?.reshape(&[q.dim(0), q.dim(1), -1])
    }

    /// Keys and values of these positions and of `recent`, each `[batch, len, kv_heads, head_dim]`.
    fn with(&self, recent: &KeyValueBuffers) -> Result<[Array; 2]> {
        let (Some(k), Some(v)) = (&recent.k, &recent.v) else {
            return Err(Exception::custom("attention: a cache without recent positions"));
        };
        let all = |index: usize, recent_rows: &Array| {
            let recent_rows = recent_rows.try_index((.., ..recent.len))?;
            let mut parts = Vec::with_capacity(3);
            parts.extend(self.first.as_ref().map(|first| first[index].clone()));
            if let Some(packed) = &self.packed {
                parts.push(packed[index].unpack(self.format, recent_rows.shape(), recent_rows.dtype())?);
            }
            parts.push(recent_rows);
            concatenate(&parts, 1)
        };
        Ok([all(0, k)?, all(1, v)?])
    }

    /// Takes the oldest positions of `recent`, if there are many.
    pub(super) fn take_from(&mut self, recent: &mut KeyValueBuffers) -> Result<()> {
        if recent.len < MOST {
            return Ok(());
        }
        let (Some(k), Some(v)) = (recent.k.take(), recent.v.take()) else { return Ok(()) };
        let count = recent.len - LAST;
        let mut start = 0;
        if self.first.is_none() {
            start = FIRST;
            let rows = |x: &Array| x.try_index((.., ..FIRST))?.contiguous();
            self.first = Some([rows(&k)?, rows(&v)?]);
        }
        let pack = |x: &Array| Rows::pack(&x.try_index((.., start..count))?, self.format);
        let more = [pack(&k)?, pack(&v)?];
        self.packed = Some(match self.packed.take() {
            None => more,
            Some([k, v]) => [k.followed_by(&more[0])?, v.followed_by(&more[1])?],
        });
        self.len += count;
        let rest = |x: &Array| x.try_index((.., count..recent.len))?.contiguous();
        (recent.k, recent.v) = (Some(rest(&k)?), Some(rest(&v)?));
        recent.len = LAST;
        Ok(())
    }
}

impl Rows {
    /// Quantizes `x`, `[batch, positions, kv_heads, head_dim]`.
    pub(super) fn pack(x: &Array, format: Format) -> Result<Self> {
        let rows = x.reshape(&[x.dim(0), x.dim(1), -1])?;
        let (codes, scales, biases) = quantize(&rows, format)?;
        let biases = biases.ok_or_else(|| Exception::custom("a cache is quantized in affine formats"))?;
        Ok(Self { codes, scales, biases })
    }

    fn followed_by(&self, more: &Self) -> Result<Self> {
        Ok(Self {
            codes: concatenate(&[&self.codes, &more.codes], 1)?,
            scales: concatenate(&[&self.scales, &more.scales], 1)?,
            biases: concatenate(&[&self.biases, &more.biases], 1)?,
        })
    }

    /// Dequantizes to `dtype`; all but the number of positions is as in `shape`.
    fn unpack(&self, format: Format, shape: &[i32], dtype: Dtype) -> Result<Array> {
        let flat = |x: &Array| x.reshape(&[-1, x.dim(-1)]);
        let (codes, scales, biases) = (flat(&self.codes)?, flat(&self.scales)?, flat(&self.biases)?);
        let rows = PackedWeight { codes: &codes, scales: &scales, biases: Some(&biases), format };
        let ids = Array::arange::<_, i32>(None, codes.dim(0), None)?;
        let &[batch, _, heads, dim] = shape else {
            return Err(Exception::custom("attention: keys and values have four dimensions"));
        };
        embedding(rows, &ids, dtype)?.reshape(&[batch, -1, heads, dim])
    }
}
