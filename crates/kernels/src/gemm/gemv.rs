//! Products with few rows of activations: each weight is read once; bound by memory bandwidth.

use crate::runtime::disjoint::Disjoint;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::pool::{parallel_for, threads};
use crate::runtime::scratch;

/// Rows of activations that share one pass over the weights.
const MAX_ROWS: usize = 8;

/// Bytes of weights per task.
const TASK_BYTES: usize = 64 << 10;

/// Storage format of weights.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Weight: Element + super::gemv_avx512::Load {}
#[cfg(target_arch = "x86_64")]
impl<T: Element + super::gemv_avx512::Load> Weight for T {}

/// Storage format of weights.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) trait Weight: Element {}
#[cfg(not(target_arch = "x86_64"))]
impl<T: Element> Weight for T {}

/// `out = x·weightᵀ`, accumulated in f32; best for at most 8 rows of `x`.
///
/// | slice | shape, row-major |
/// |---|---|
/// | `x` | `[rows, columns]` |
/// | `weight` | `[n, columns]` |
/// | `out` | `[rows, n]` |
///
/// # Panics
/// If the lengths do not match.
pub(crate) fn dense<T: Weight>(isa: Isa, x: &[f32], weight: &[T], columns: usize, out: &mut [f32]) {
    if columns == 0 || weight.is_empty() {
        return out.fill(0.0);
    }
    let n = weight.len() / columns;
    assert!(
        n * columns == weight.len() && x.len() * n == out.len() * columns,
        "gemv: {} by {} numbers give {} with {columns} columns",
        x.len(),
        weight.len(),
        out.len()
    );
    let step = (TASK_BYTES / (columns * size_of::<T>())).min(n.div_ceil(4 * threads())).max(1);
    for (x, out) in x.chunks(MAX_ROWS * columns).zip(out.chunks_mut(MAX_ROWS * n)) {
        let rows = x.len() / columns;
        let shared = Disjoint::new(out);
        parallel_for(n.div_ceil(step), |task| {
            let range = task * step..((task + 1) * step).min(n);
            let mut block = scratch::take::<f32>(range.len() * rows);
            multiply(isa, x, &weight[range.start * columns..range.end * columns], columns, &mut block);
            for i in 0..rows {
                // SAFETY: tasks have different ranges of every row.
                let place = unsafe { shared.part(i * n + range.start..i * n + range.end) };
                for (y, products) in place.iter_mut().zip(block.chunks_exact(rows)) {
                    *y = products[i];
                }
            }
        });
    }
}

/// Writes the products of some rows of weights: `[rows of weight, rows of x]`.
pub(crate) fn multiply<T: Weight>(isa: Isa, x: &[f32], weight: &[T], columns: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        return super::gemv_avx512::multiply(x, weight, columns, out);
    }
    multiply_chunks(isa, x, weight, columns, out);
}

/// Weights widened at once, on the stack.
const CHUNK: usize = 768;
/// Lanes of a sum, in several registers because additions to one wait for each other.
const LANES: usize = 64;

vectorized! {
    fn multiply_chunks<T: Element>(x: &[f32], weight: &[T], columns: usize, out: &mut [f32]) {
        let rows = x.len() / columns;
        let mut wide = [0.0; CHUNK];
        for (weight, out) in weight.chunks_exact(columns).zip(out.chunks_exact_mut(rows)) {
            out.fill(0.0);
            for (i, weight) in weight.chunks(CHUNK).enumerate() {
                let wide = &mut wide[..weight.len()];
                T::widen(weight, wide);
                for (x, y) in x.chunks_exact(columns).zip(out.iter_mut()) {
                    *y += dot(wide, &x[i * CHUNK..][..weight.len()]);
                }
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += a * b;
    }
    let mut len = LANES / 2;
    while len > 0 {
        for i in 0..len {
            sums[i] += sums[i + len];
        }
        len /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// Numbers in [-1, 1) that `T` holds exactly.
    fn draw<T: Element>(len: usize, seed: u32) -> Vec<T> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            T::from_f32((state >> 25) as f32 / 64.0 - 1.0)
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn check<T: Weight>() {
        for (rows, n, columns) in [
            (0, 3, 5),
            (1, 0, 4),
            (2, 3, 0),
            (1, 1, 1),
            (1, 33, 70),
            (3, 7, 1500),
            (8, 5, 64),
            (11, 300, 129),
        ] {
            // From the second element on, so that nothing is aligned.
            let (x, weight) = (draw::<f32>(rows * columns + 1, 1), draw::<T>(n * columns + 1, 2));
            let (x, weight) = (&x[1..], &weight[1..]);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; rows * n];
                dense(isa, x, weight, columns, &mut out);
                for (i, y) in out.iter().enumerate() {
                    let (row, column) = (i / n, i % n);
                    let exact: f64 = (0..columns)
                        .map(|k| {
                            let w = Element::to_f32(weight[column * columns + k]);
                            f64::from(x[row * columns + k]) * f64::from(w)
                        })
                        .sum();
                    assert!(
                        (f64::from(*y) - exact).abs() < 1e-3,
                        "{isa:?} {rows} {n} {columns}: {y} {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn equals_f64_in_every_dtype_and_size() {
        check::<f32>();
        check::<bf16>();
        check::<f16>();
    }
}
