//! Forward pass for one query per sequence (decoding). It is bound by reading the keys and values once, so all heads
//! traverse them together in memory order.

use std::ops::Range;

use super::panel::{self, Geometry, Inputs, KEYS, Place};
use super::product::{LANES, Left, Result, Right, product};
use super::vector::{Load, Portable, Vector};
use crate::runtime::disjoint::Disjoint;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, prefetch, vectorized};
use crate::runtime::math::exp;
use crate::runtime::pool;
use crate::runtime::scratch;

/// Maximum number of heads per group; beyond it, vectors along queries are faster.
const GROUP: usize = 16;

/// Minimum number of keys per part of the context.
const PART: usize = 64;

/// Multiply-adds below which waking other threads costs more than it saves.
const SERIAL_BELOW: usize = 1 << 17;

/// Whether [`forward`] supports this call.
pub(super) fn takes(geometry: &Geometry) -> bool {
    geometry.time == 1 && geometry.rows() <= GROUP && geometry.head_dim.is_multiple_of(LANES)
}

/// As [`super::forward::forward`].
pub(super) fn forward<T: Load>(
    isa: Isa,
    geometry: &Geometry,
    inputs: &Inputs<T>,
    out: &mut [T],
    logsumexps: &mut [f32],
) {
    let (heads, len) = (geometry.heads, state_len(geometry));
    let work = geometry.batch * geometry.keys * geometry.head_dim * (heads + 2 * geometry.kv_heads);
    let wanted = pool::threads().div_ceil(geometry.batch.max(1));
    let parts = if work < SERIAL_BELOW { 1 } else { wanted.min(geometry.keys / PART).max(1) };
    let mut states = scratch::take::<f32>(geometry.batch * parts * len);
    let shared = Disjoint::new(&mut states);
    let task = |index: usize| {
        // SAFETY: every index has a part of its own.
        let state = unsafe { shared.part(index * len..(index + 1) * len) };
        let (batch, part) = (index / parts, index % parts);
        let all = geometry.visible(inputs.starts, Place { batch, kv_head: 0 }, 0);
        let step = all.len().div_ceil(parts);
        let start = (all.start + part * step).min(all.end);
        attend(isa, geometry, inputs, batch, start..(start + step).min(all.end), state);
    };
    if work < SERIAL_BELOW {
        (0..geometry.batch).for_each(task);
    } else {
        pool::parallel_for(geometry.batch * parts, task);
    }
    for batch in 0..geometry.batch {
        let parts = &states[batch * parts * len..(batch + 1) * parts * len];
        let out = &mut out[batch * heads * geometry.head_dim..][..heads * geometry.head_dim];
        join(isa, geometry, inputs, parts, out, &mut logsumexps[batch * heads..][..heads]);
    }
}

/// Length of a state: per head the weighted sum of values, `[heads, head_dim]`, the maximum score, and the sum of weights
/// relative to it.
fn state_len(geometry: &Geometry) -> usize {
    geometry.heads * (geometry.head_dim + 2)
}

/// Fills `state` from `keys` of one sequence.
fn attend<T: Load>(
    isa: Isa,
    geometry: &Geometry,
    inputs: &Inputs<T>,
    batch: usize,
    keys: Range<usize>,
    state: &mut [f32],
) {
    let Geometry { heads, kv_heads, head_dim, .. } = *geometry;
    let group = heads / kv_heads;
    let (sums, rest) = state.split_at_mut(heads * head_dim);
    let (row_max, weights) = rest.split_at_mut(heads);
    sums.fill(0.0);
    row_max.fill(f32::NEG_INFINITY);
    weights.fill(0.0);
    let row = kv_heads * head_dim;
    let mut buffer = scratch::take::<f32>(heads * (head_dim + KEYS));
    let (q, scores) = buffer.split_at_mut(heads * head_dim);
    widen(isa, &inputs.q[batch * heads * head_dim..][..heads * head_dim], q);
    panel::multiply(isa, q, geometry.scale);
    for start in keys.clone().step_by(KEYS) {
        let len = KEYS.min(keys.end - start);
        let part = (batch * geometry.capacity + start) * row..(batch * geometry.capacity + start + len) * row;
        let (k, v) = (&inputs.k[part.clone()], &inputs.v[part]);
        // A few keys at a time, all their heads: in the order of memory.
        for key in (0..len).step_by(4) {
            prefetch(&v[key * row..(key + 4).min(len) * row]);
            for kv_head in 0..kv_heads {
                // The last four may be fewer; the last one then comes again.
                let places: [usize; 4] =
                    std::array::from_fn(|i| (key + i).min(len - 1) * row + kv_head * head_dim);
                let head = kv_head * group;
                let q = &q[head * head_dim..(head + group) * head_dim];
                dots(isa, q, head_dim, k, places, &mut scores[head * KEYS + key..]);
            }
        }
        for head in 0..heads {
            let scores = &mut scores[head * KEYS..(head + 1) * KEYS];
            if let Some(cap) = geometry.softcap {
                panel::apply_softcap(isa, &mut scores[..len], cap);
            }
            scores[len..].fill(f32::NEG_INFINITY);
            let rescale = online_softmax(isa, scores, &mut row_max[head], &mut weights[head]);
            if rescale < 1.0 {
                panel::multiply(isa, &mut sums[head * head_dim..(head + 1) * head_dim], rescale);
            }
        }
        for kv_head in 0..kv_heads {
            let head = kv_head * group;
            product(
                isa,
                [group, head_dim, len],
                Left { data: &scores[head * KEYS..], row: KEYS, column: 1 },
                Right { data: &v[kv_head * head_dim..], row },
                Result { data: &mut sums[head * head_dim..], row: head_dim, add: true },
            );
        }
    }
}

/// Joins the states of the parts of one sequence and writes the result.
fn join<T: Element>(
    isa: Isa,
    geometry: &Geometry,
    inputs: &Inputs<T>,
    parts: &[f32],
    out: &mut [T],
    logsumexps: &mut [f32],
) {
    let Geometry { heads, head_dim, .. } = *geometry;
    let states = || parts.chunks_exact(state_len(geometry));
    let mut sums = scratch::take::<f32>(head_dim);
    for (head, (out, logsumexp)) in out.chunks_exact_mut(head_dim).zip(logsumexps).enumerate() {
        let row_max = |state: &[f32]| state[heads * head_dim + head];
        let top = states().map(row_max).fold(f32::NEG_INFINITY, f32::max);
        sums.fill(0.0);
        let mut all = 0.0;
        if top > f32::NEG_INFINITY {
            for state in states() {
                let share = exp(row_max(state) - top);
                all += share * state[heads * (head_dim + 1) + head];
                add_scaled(isa, &mut sums, &state[head * head_dim..][..head_dim], share);
            }
        }
        let (logarithm, factor) = inputs.normalizer(head, top, all);
        *logsumexp = logarithm;
        panel::multiply(isa, &mut sums, factor);
        panel::write(isa, &sums, out);
    }
}

vectorized! {
    fn widen<T: Element>(numbers: &[T], wide: &mut [f32]) {
        T::widen(numbers, wide);
    }

    fn add_scaled(sums: &mut [f32], numbers: &[f32], factor: f32) {
        for (sum, x) in sums.iter_mut().zip(numbers) {
            *sum += x * factor;
        }
    }

    /// Replaces the scores of a head by weights; returns the correction factor of earlier weights.
    fn online_softmax(scores: &mut [f32], row_max: &mut f32, weight: &mut f32) -> f32 {
        let scores = scores.as_chunks_mut::<LANES>().0;
        let mut tops = [f32::NEG_INFINITY; LANES];
        for scores in &*scores {
            for (top, &x) in tops.iter_mut().zip(scores) {
                *top = if x > *top { x } else { *top };
            }
        }
        let top = tops.iter().fold(*row_max, |top, &x| if x > top { x } else { top });
        let mut sums = [0.0; LANES];
        for scores in scores {
            for (x, sum) in scores.iter_mut().zip(&mut sums) {
                *x = exp(*x - top);
                *sum += *x;
            }
        }
        let rescale = exp(*row_max - top);
        *row_max = top;
        *weight = *weight * rescale + sums.iter().sum::<f32>();
        rescale
    }
}

/// Products of every row of `q` with the four rows of `k` at `places`; those of a row go to `scores`, rows
/// [`KEYS`] apart.
fn dots<T: Load>(isa: Isa, q: &[f32], len: usize, k: &[T], places: [usize; 4], scores: &mut [f32]) {
    let rows = q.len() / len;
    assert!(places.iter().all(|place| place + len <= k.len()), "attention: size of the keys");
    assert!(scores.len() >= (rows - 1) * KEYS + 4, "attention: size of the scores");
    let keys = places.map(|place| k[place..].as_ptr());
    // SAFETY: the operands hold all that is read, as just checked, and an `Isa` exists only where the
    // processor has it.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            level if level >= Isa::Avx512 => dots_avx512(q, len, keys, scores),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => dots_avx2(q, len, keys, scores),
            _ => dots_of::<Portable, T>(q, len, keys, scores),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn dots_avx512<T: Load>(q: &[f32], len: usize, keys: [*const T; 4], scores: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { dots_of::<std::arch::x86_64::__m512, T>(q, len, keys, scores) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots_avx2<T: Load>(q: &[f32], len: usize, keys: [*const T; 4], scores: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { dots_of::<std::arch::x86_64::__m256, T>(q, len, keys, scores) }
}

/// # Safety
/// `keys` point to `len` numbers each, `scores` holds four per row, and the processor has the instructions.
#[inline(always)]
#[allow(clippy::inline_always)]
unsafe fn dots_of<V: Vector, T: Load>(q: &[f32], len: usize, keys: [*const T; 4], scores: &mut [f32]) {
    let rows = q.len() / len;
    let mut row = 0;
    while row < rows {
        let count = (rows - row).min(V::ROWS);
        let (q, scores) = (q[row * len..].as_ptr(), &mut scores[row * KEYS..]);
        // SAFETY: the caller's.
        unsafe {
            match count {
                1 => tile::<V, T, 1>(q, len, keys, scores),
                2 => tile::<V, T, 2>(q, len, keys, scores),
                3 => tile::<V, T, 3>(q, len, keys, scores),
                4 => tile::<V, T, 4>(q, len, keys, scores),
                5 => tile::<V, T, 5>(q, len, keys, scores),
                6 => tile::<V, T, 6>(q, len, keys, scores),
                _ => tile::<V, T, 7>(q, len, keys, scores),
            }
        }
        row += count;
    }
}

#[inline(always)]
#[allow(clippy::inline_always)]
unsafe fn tile<V: Vector, T: Load, const R: usize>(
    q: *const f32,
    len: usize,
    keys: [*const T; 4],
    scores: &mut [f32],
) {
    // SAFETY: the caller's; `len` is a multiple of the vector's length.
    unsafe {
        let mut sums = [[V::zero(); 4]; R];
        for at in (0..len).step_by(V::LEN) {
            let keys = keys.map(|key| T::load::<V>(key.add(at)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let q = V::load(q.add(r * len + at));
                for (sum, &key) in sums.iter_mut().zip(&keys) {
                    *sum = V::multiply_add(q, key, *sum);
                }
            }
        }
        for (r, &sums) in sums.iter().enumerate() {
            scores[r * KEYS..][..4].copy_from_slice(&V::sums(sums));
        }
    }
}
