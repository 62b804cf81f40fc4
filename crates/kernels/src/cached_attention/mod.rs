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

use std::sync::atomic::AtomicUsize;

use mlx_rs::error::Exception;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};

use crate::append::{self, append};
use crate::attention::{self, KeyValues, Scoring, attention};
use crate::error::MlxResult;
use crate::mlx::apply::apply_many;
use crate::mlx::device::on_cpu;
use crate::rope::{Positions, RotaryFrequencies, rope};
use op::{CachedAttention, Part};

mod op;

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
    /// Number of positions before those, which are no longer cached.
    pub skipped: i32,
}

/// One of several sequences that are continued together.
#[derive(Debug)]
pub struct CachedSequence<'a> {
    /// Number of new positions.
    pub time: i32,
    /// Rotary position embedding, if any.
    pub rotation: Option<&'a RotaryFrequencies>,
    /// What is cached of it.
    pub store: &'a mut KeyValueBuffers,
}

/// Appends `k` and `v` to `store` and computes attention of `q` over all cached positions.
/// See the [module](self) for shapes.
///
/// Buffers without other references are updated in place. Not differentiable on the CPU.
///
/// # Errors
/// Incompatible shapes. `store` is then empty.
pub fn cached_attention(
    qkv: [&Array; 3],
    query: AttentionConfig,
    store: &mut KeyValueBuffers,
) -> MlxResult<Array> {
    let time = qkv[0].shape().get(1).copied().unwrap_or(0);
    continue_sequences(qkv, query, &mut [CachedSequence { time, rotation: query.rotation, store }])
}

/// [`cached_attention`] of several sequences, each with a cache and a rotation of its own. Their new positions follow
/// each other in `q`, `k` and `v`, which have a batch of 1; `query` is without rotation.
///
/// # Errors
/// Incompatible shapes. All stores are then empty.
pub fn cached_attention_each(
    qkv: [&Array; 3],
    query: AttentionConfig,
    sequences: &mut [CachedSequence],
) -> MlxResult<Array> {
    let time: i32 = sequences.iter().map(|sequence| sequence.time).sum();
    if qkv[0].shape().get(..2) != Some(&[1, time]) {
        for sequence in sequences {
            *sequence.store = KeyValueBuffers::default();
        }
        let message = format!("attention: {:?} is not one row of {time} positions", qkv[0].shape());
        return Err(Exception::custom(message));
    }
    continue_sequences(qkv, query, sequences)
}

fn continue_sequences(
    [q, k, v]: [&Array; 3],
    query: AttentionConfig,
    sequences: &mut [CachedSequence],
) -> MlxResult<Array> {
    // Taken, not cloned: a buffer without other references is written in place.
    let stores: Vec<KeyValueBuffers> =
        sequences.iter_mut().map(|sequence| std::mem::take(sequence.store)).collect();
    let split = |x: &Array, heads: i32| match *x.shape() {
        [batch, time, width] if width == heads * query.head_dim => Ok([batch, time, heads, query.head_dim]),
        [batch, time, own, dim] if (own, dim) == (heads, query.head_dim) => Ok([batch, time, own, dim]),
        _ => Err(Exception::custom(format!("attention: {:?} is not {heads} heads: {query:?}", x.shape()))),
    };
    let (q_shape, k_shape) = (split(q, query.heads)?, split(k, query.kv_heads)?);
    if split(v, query.kv_heads)? != k_shape || k_shape[..2] != q_shape[..2] {
        let (q, k, v) = (q.shape(), k.shape(), v.shape());
        return Err(Exception::custom(format!("attention: q {q:?}, k {k:?} and v {v:?} do not fit")));
    }
    let float = matches!(q.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    let buffers = || stores.iter().flat_map(|store| store.k.iter().chain(&store.v));
    let same = [k, v].into_iter().chain(buffers()).all(|x| x.dtype() == q.dtype());
    if !on_cpu() || !float || !same {
        let (q, k, v) = (q.reshape(&q_shape)?, k.reshape(&k_shape)?, v.reshape(&k_shape)?);
        return compose([&q, &k, &v], query, sequences, stores);
    }
    let mut shapes = Vec::with_capacity(sequences.len());
    let mut parts = Vec::with_capacity(sequences.len());
    for (sequence, KeyValueBuffers { k: old_k, v: old_v, len, skipped }) in sequences.iter().zip(&stores) {
        let of = |[batch, _, heads, dim]: [i32; 4]| [batch, sequence.time, heads, dim];
        let stored = append::grown_shape(old_k.as_ref(), &of(k_shape), k.dtype(), *len)?;
        if append::grown_shape(old_v.as_ref(), &of(k_shape), v.dtype(), *len)? != stored {
            return Err(Exception::custom("attention: keys and values are not as many"));
        }
        parts.push(Part {
            geometry: attention::geometry(&of(q_shape), &stored, len + sequence.time, query.scoring)?,
            skipped: skipped.unsigned_abs() as usize,
            inv_freq: sequence.rotation.map(|rotation| rotation.inv_freq(query.head_dim)).transpose()?,
            is_cached: old_k.is_some(),
        });
        shapes.push(stored);
    }
    let sinks = query.scoring.sinks;
    let op = CachedAttention { parts, sinks: sinks.is_some(), added: AtomicUsize::new(0) };
    let inputs: Vec<&Array> = [q, k, v].into_iter().chain(sinks).chain(buffers()).collect();
    let flat = [q_shape[0], q_shape[1], query.heads * query.head_dim];
    let mut outputs = vec![(&flat[..], q.dtype())];
    outputs.extend(shapes.iter().flat_map(|shape| [(&shape[..], q.dtype()), (&shape[..], q.dtype())]));
    let mut arrays = apply_many(op, &inputs, &outputs)?.into_iter();
    let y = arrays.next().ok_or_else(|| Exception::custom("attention: a result expected"))?;
    for (sequence, store) in sequences.iter_mut().zip(&stores) {
        let (k, v) = (arrays.next(), arrays.next());
        *sequence.store = KeyValueBuffers { k, v, len: store.len + sequence.time, skipped: store.skipped };
    }
    Ok(y)
}

/// The same as separate operations.
fn compose(
    qkv: [&Array; 3],
    query: AttentionConfig,
    sequences: &mut [CachedSequence],
    stores: Vec<KeyValueBuffers>,
) -> MlxResult<Array> {
    let mut first = 0;
    let mut results = Vec::with_capacity(sequences.len());
    for (sequence, KeyValueBuffers { k: old_k, v: old_v, len, skipped }) in sequences.iter_mut().zip(stores) {
        let time = sequence.time;
        let rows = |x: &Array| {
            if x.dim(1) == time { Ok(x.clone()) } else { x.try_index((.., first..first + time)) }
        };
        let [mut q, mut k, v] = [rows(qkv[0])?, rows(qkv[1])?, rows(qkv[2])?];
        if let Some(rotation) = sequence.rotation {
            (q, k) = rope(&q, &k, rotation, Positions::Offset(skipped + len))?;
        }
        let (k, v) = (append(old_k, &k, len)?, append(old_v, &v, len)?);
        let keys = KeyValues { k: &k, v: &v, len: len + time };
        results.push(attention(&q, keys, query.scoring, None)?.reshape(&[q.dim(0), time, -1])?);
        *sequence.store = KeyValueBuffers { k: Some(k), v: Some(v), len: len + time, skipped };
        first += time;
    }
    if results.len() == 1 { Ok(results.swap_remove(0)) } else { concatenate(&results, 1) }
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
    fn sequences_are_what_each_gives_alone() {
        let rotation = RotaryFrequencies::new(&RotaryFrequencies::periods(10_000.0, 16), 1.0);
        for dtype in FLOATS {
            let sinks = draw(&[4], dtype, 20);
            for sinks in [None, Some(&sinks)] {
                let query = AttentionConfig { scoring: Scoring { sinks, ..QUERY.scoring }, ..QUERY };
                let rotations = [None, Some(&rotation), Some(&rotation), None];
                let mut together = vec![KeyValueBuffers::default(); 4];
                together[2].skipped = 7;
                let mut alone = together.clone();
                for (seed, times) in [(1, [3, 300, 1, 2]), (2, [1, 1, 1, 1]), (3, [1, 5, 1, 300])] {
                    let total = times.iter().sum();
                    let of = |seed: u64, width: i32| draw(&[1, total, width], dtype, seed);
                    let qkv = [of(seed, 64), of(seed + 10, 32), of(seed + 20, 32)];
                    let mut sequences: Vec<_> = together
                        .iter_mut()
                        .zip(rotations)
                        .zip(times)
                        .map(|((store, rotation), time)| CachedSequence { time, rotation, store })
                        .collect();
                    let y =
                        cached_attention_each([&qkv[0], &qkv[1], &qkv[2]], query, &mut sequences).unwrap();
                    let (mut first, mut expected) = (0, Vec::new());
                    for ((store, rotation), time) in alone.iter_mut().zip(rotations).zip(times) {
                        let rows = |x: &Array| x.try_index((.., first..first + time)).unwrap();
                        let qkv = [rows(&qkv[0]), rows(&qkv[1]), rows(&qkv[2])];
                        let query = AttentionConfig { rotation, ..query };
                        let y = cached_attention([&qkv[0], &qkv[1], &qkv[2]], query, store).unwrap();
                        expected.extend(values(&y));
                        first += time;
                    }
                    assert_eq!(values(&y), expected, "{dtype:?} {times:?}");
                    for (a, b) in together.iter().zip(&alone) {
                        assert_eq!((a.len, a.skipped), (b.len, b.skipped));
                        assert_eq!(values(a.k.as_ref().unwrap()), values(b.k.as_ref().unwrap()));
                        assert_eq!(values(a.v.as_ref().unwrap()), values(b.v.as_ref().unwrap()));
                    }
                }
            }
        }
    }

    #[test]
    fn the_composition_is_the_operation() {
        let rotation = RotaryFrequencies::new(&RotaryFrequencies::periods(10_000.0, 16), 1.0);
        let times = [2, 1];
        let run = |composed: bool| {
            let mut stores = vec![KeyValueBuffers { skipped: 5, ..Default::default() }; 2];
            let [q, k, v] =
                [(64, 1), (32, 2), (32, 3)].map(|(width, seed)| draw(&[1, 3, width], Dtype::Float32, seed));
            let split = |x: &Array| x.reshape(&[1, 3, -1, 16]).unwrap();
            let empty = vec![KeyValueBuffers { skipped: 5, ..Default::default() }; 2];
            let mut sequences: Vec<_> = stores
                .iter_mut()
                .zip(times)
                .map(|(store, time)| CachedSequence { time, rotation: Some(&rotation), store })
                .collect();
            let y = if composed {
                compose([&split(&q), &split(&k), &split(&v)], QUERY, &mut sequences, empty)
            } else {
                cached_attention_each([&q, &k, &v], QUERY, &mut sequences)
            };
            values(&y.unwrap())
        };
        assert_eq!(run(true), run(false));
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
