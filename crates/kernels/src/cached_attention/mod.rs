//! Attention over a key-value cache, for autoregressive generation: `RoPE`, cache update and attention in one
//! operation.
//!
//! | operand | shape |
//! |---|---|
//! | `q` | `[batch, time, heads, head_dim]` or `[batch, time, heads · head_dim]` |
//! | `k`, `v` | the same with `kv_heads` |
//! | buffers | `[batch, capacity, kv_heads, head_dim]`, the first `len` rows of it in use |
//! | result | `[batch, time, heads · head_dim]` |
//!
//! On the CPU this is a single node: with one query, the overhead of separate nodes would equal their computation.

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::append::{self, append};
use crate::attention::{self, Geometry, Inputs, KeyValues, Load, Scoring, attention};
use crate::error::MlxResult;
use crate::mlx::apply::apply_many;
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::rope::{self, Positions, RotaryFrequencies, rope};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut, SliceMut};
use crate::runtime::scratch;

/// Heads, position embedding and scores of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct AttentionConfig<'a> {
    /// Number of query heads.
    pub heads: i32,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: i32,
    /// Dimension of a head.
    pub head_dim: i32,
    /// Rotary position embedding, if any.
    pub rotation: Option<&'a RotaryFrequencies>,
    /// Computation of attention scores.
    pub scoring: Scoring<'a>,
}

/// Key and value buffers of a cache, `[batch, capacity, kv_heads, head_dim]`.
#[derive(Debug, Clone, Default)]
pub struct KeyValueBuffers {
    /// Keys; `None` while the cache is empty.
    pub k: Option<Array>,
    /// Values, as `k`.
    pub v: Option<Array>,
    /// Number of cached positions.
    pub len: i32,
}

/// Appends `k` and `v` to `store` and computes attention of `q` over all cached positions.
/// See the [module](self) for shapes.
///
/// Buffers without other references are updated in place. Not differentiable on the CPU.
///
/// # Errors
/// Incompatible shapes. `store` is then empty.
pub fn cached_attention(
    [q, k, v]: [&Array; 3],
    query: AttentionConfig,
    store: &mut KeyValueBuffers,
) -> MlxResult<Array> {
    let KeyValueBuffers { k: old_k, v: old_v, len } = std::mem::take(store);
    let split = |x: &Array, heads: i32| match *x.shape() {
        [batch, time, width] if width == heads * query.head_dim => Ok([batch, time, heads, query.head_dim]),
        [batch, time, own, dim] if (own, dim) == (heads, query.head_dim) => Ok([batch, time, own, dim]),
        _ => Err(Exception::custom(format!("attention: {:?} is not {heads} heads: {query:?}", x.shape()))),
    };
    let (q_shape, k_shape) = (split(q, query.heads)?, split(k, query.kv_heads)?);
    let time = q_shape[1];
    if split(v, query.kv_heads)? != k_shape || k_shape[..2] != q_shape[..2] {
        let (q, k, v) = (q.shape(), k.shape(), v.shape());
        return Err(Exception::custom(format!("attention: q {q:?}, k {k:?} and v {v:?} do not fit")));
    }
    let float = matches!(q.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    let same = [k, v].into_iter().chain(&old_k).chain(&old_v).all(|x| x.dtype() == q.dtype());
    if !on_cpu() || !float || !same {
        let (mut q, mut k, v) = (q.reshape(&q_shape)?, k.reshape(&k_shape)?, v.reshape(&k_shape)?);
        if let Some(rotation) = query.rotation {
            (q, k) = rope(&q, &k, rotation, Positions::Offset(len))?;
        }
        let (k, v) = (append(old_k, &k, len)?, append(old_v, &v, len)?);
        let keys = KeyValues { k: &k, v: &v, len: len + time };
        let y = attention(&q, keys, query.scoring, None)?.reshape(&[q_shape[0], time, -1])?;
        *store = KeyValueBuffers { k: Some(k), v: Some(v), len: len + time };
        return Ok(y);
    }
    let stored = append::grown_shape(old_k.as_ref(), &k_shape, k.dtype(), len)?;
    if append::grown_shape(old_v.as_ref(), &k_shape, v.dtype(), len)? != stored {
        return Err(Exception::custom("attention: keys and values are not as many"));
    }
    let inv_freq = query.rotation.map(|rotation| rotation.inv_freq(query.head_dim)).transpose()?;
    let geometry = attention::geometry(&q_shape, &stored, len + time, query.scoring)?;
    let sinks = query.scoring.sinks;
    let op = CachedAttention { geometry, sinks: sinks.is_some(), added: AtomicUsize::new(0), inv_freq };
    let inputs: Vec<&Array> = [q, k, v].into_iter().chain(sinks).chain(&old_k).chain(&old_v).collect();
    let flat = [q_shape[0], time, query.heads * query.head_dim];
    let outputs = [(&flat[..], q.dtype()), (&stored[..], q.dtype()), (&stored[..], q.dtype())];
    let arrays = apply_many(op, &inputs, &outputs)?;
    let [y, k, v] =
        <[Array; 3]>::try_from(arrays).map_err(|_| Exception::custom("attention: three results expected"))?;
    *store = KeyValueBuffers { k: Some(k), v: Some(v), len: len + time };
    Ok(y)
}

/// Inputs `q`, `k`, `v` and perhaps sinks and the stored keys and values; outputs the result and what is stored now.
struct CachedAttention {
    geometry: Geometry,
    sinks: bool,
    /// Positions added by replays of a tape.
    added: AtomicUsize,
    /// Inverse frequencies, radians per position.
    inv_freq: Option<Arc<[f64]>>,
}

impl HostOp for CachedAttention {
    const NAME: &'static CStr = c"EatCachedAttention";

    fn donors(&self, inputs: usize, _outputs: usize) -> Vec<Option<usize>> {
        let first = self.first_stored();
        let stored = |input: usize| (inputs > input).then_some(input);
        vec![None, stored(first), stored(first + 1)]
    }

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let [y, k, v] = outputs else { unreachable!("three outputs") };
        match (&mut y.data, &mut k.data, &mut v.data) {
            (SliceMut::F32(y), SliceMut::F32(k), SliceMut::F32(v)) => self.run(inputs, y, k, v),
            (SliceMut::F16(y), SliceMut::F16(k), SliceMut::F16(v)) => self.run(inputs, y, k, v),
            (SliceMut::Bf16(y), SliceMut::Bf16(k), SliceMut::Bf16(v)) => self.run(inputs, y, k, v),
            _ => unreachable!("all have one dtype"),
        }
    }

    fn vjp(&self, _: &VjpContext, _: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }

    fn runs_left(&self) -> usize {
        // The cache grows in place only, and at least one position of it must be there to continue.
        let Geometry { time, keys, capacity, .. } = self.geometry;
        if time == 1 && keys > 1 { capacity - keys } else { 0 }
    }

    fn advance(&self) {
        self.added.fetch_add(1, Ordering::Relaxed);
    }
}

impl CachedAttention {
    /// Which input holds the stored keys, where there are any.
    fn first_stored(&self) -> usize {
        3 + usize::from(self.sinks)
    }

    fn run<T: Load>(&self, inputs: &[Operand], y: &mut [T], k: &mut [T], v: &mut [T]) {
        let mut geometry = self.geometry;
        geometry.keys += self.added.load(Ordering::Relaxed);
        let Geometry { batch, time, heads, kv_heads, head_dim, capacity, keys, .. } = geometry;
        let isa = Isa::current();
        let mut q = T::of(&inputs[0].data);
        let (mut new_k, new_v) = (T::of(&inputs[1].data), T::of(&inputs[2].data));
        let mut rotated = scratch::take::<T>(if self.inv_freq.is_some() { q.len() + new_k.len() } else { 0 });
        if let Some(inv_freq) = &self.inv_freq {
            let (rotated_q, rotated_k) = rotated.split_at_mut(q.len());
            let first = (keys - time) as i32;
            let positions = rope::cpu::Positions::Offset { first, time };
            let pairs = [(q, &mut *rotated_q), (new_k, &mut *rotated_k)];
            rope::cpu::rotate(isa, inv_freq, positions, batch * time, head_dim, pairs);
            (q, new_k) = (rotated_q, rotated_k);
        }
        let first = self.first_stored();
        for (slot, rows, out) in [(first, new_k, &mut *k), (first + 1, new_v, &mut *v)] {
            let old = inputs.get(slot);
            let old_capacity = old.map_or(0, |old| old.shape[1].unsigned_abs() as usize);
            let extent = append::Extent {
                row: kv_heads * head_dim,
                len: keys - time,
                count: time,
                capacity,
                old_capacity,
            };
            append::write(extent, old.map(|old| T::of(&old.data)), rows, out);
        }
        let mut logsumexps = scratch::take(batch * time * heads);
        let sinks = self.sinks.then(|| attention::numbers(&inputs[3]));
        let inputs = Inputs { q, k, v, starts: None, sinks: sinks.as_deref() };
        attention::forward(isa, &geometry, &inputs, y, &mut logsumexps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Mask;
    use crate::testing::{FLOATS, draw, values};

    const QUERY: AttentionConfig = AttentionConfig {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        rotation: None,
        scoring: Scoring::plain(0.25, Mask::Causal),
    };

    /// What the separate operations give.
    fn composed([q, k, v]: [&Array; 3], query: AttentionConfig, store: &mut KeyValueBuffers) -> Array {
        let split = |x: &Array| x.reshape(&[x.dim(0), x.dim(1), -1, query.head_dim]).unwrap();
        let (mut q, mut k, v) = (split(q), split(k), split(v));
        if let Some(rotation) = query.rotation {
            (q, k) = rope(&q, &k, rotation, Positions::Offset(store.len)).unwrap();
        }
        let k = append(store.k.take(), &k, store.len).unwrap();
        let v = append(store.v.take(), &v, store.len).unwrap();
        store.len += q.dim(1);
        let keys = KeyValues { k: &k, v: &v, len: store.len };
        let y = attention(&q, keys, query.scoring, None).unwrap();
        (store.k, store.v) = (Some(k), Some(v));
        y.reshape(&[q.dim(0), q.dim(1), -1]).unwrap()
    }

    #[test]
    fn is_what_the_separate_operations_give() {
        let rotation = RotaryFrequencies::new(&RotaryFrequencies::periods(10_000.0, 16), 1.0);
        for dtype in FLOATS {
            let sinks = draw(&[4], dtype, 20);
            let sliding = Scoring::plain(0.25, Mask::Sliding(5));
            for (rotation, scoring) in [
                (None, QUERY.scoring),
                (Some(&rotation), sliding),
                (None, Scoring { softcap: Some(0.7), sinks: Some(&sinks), ..sliding }),
            ] {
                let query = AttentionConfig { rotation, scoring, ..QUERY };
                let (mut ours, mut theirs) = (KeyValueBuffers::default(), KeyValueBuffers::default());
                for (seed, time) in [(0, 3), (3, 1), (6, 260), (9, 1), (12, 2)] {
                    let of = |seed: u64, width: i32| draw(&[2, time, width], dtype, seed);
                    let (q, k, v) = (of(seed, 64), of(seed + 1, 32), of(seed + 2, 32));
                    let y = cached_attention([&q, &k, &v], query, &mut ours).unwrap();
                    let expected = composed([&q, &k, &v], query, &mut theirs);
                    assert_eq!(y.shape(), expected.shape());
                    assert_eq!(values(&y), values(&expected), "{dtype:?} {time}");
                    assert_eq!(ours.len, theirs.len);
                }
            }
        }
    }

    #[test]
    fn misfits_are_refused() {
        let of = |time: i32, width: i32| draw(&[1, time, width], Dtype::Float32, 1);
        let (q, k) = (of(1, 64), of(1, 32));
        for (q, k, v) in [(&k, &k, &k), (&q, &q, &k), (&q, &k, &of(2, 32))] {
            assert!(cached_attention([q, k, v], QUERY, &mut KeyValueBuffers::default()).is_err());
        }
    }
}
