//! Weighted sums of clients: all at once, or folded in one by one.

use std::sync::atomic::{AtomicBool, Ordering};

use super::block::{add_scaled, store};
use super::number::{Number, Values, ValuesMut, with_values};
use super::tasks;
use crate::runtime::disjoint::{parallel_chunks, parallel_items};
use crate::runtime::isa::{Isa, vectorized};

/// Columns of one task, whose sums stay in the first-level cache.
const WIDTH: usize = 2048;

/// Writes `Σ weightᵢ·clientᵢ` of each tensor, added up in f64. Returns whether every sum is finite.
#[must_use]
pub fn weighted_sum(isa: Isa, tensors: &[Vec<Values>], weights: &[f64], outputs: Vec<ValuesMut>) -> bool {
    let finite = AtomicBool::new(true);
    parallel_items(tasks(tensors, outputs, WIDTH), |(clients, columns, out)| {
        let mut sum = [0.0; WIDTH];
        let sum = &mut sum[..columns.len()];
        for (values, &weight) in clients.iter().zip(weights) {
            if weight != 0.0 {
                with_values!(Values, values, slice => add_scaled(isa, sum, &slice[columns.clone()], weight));
            }
        }
        if excess(isa, sum) != 0.0 {
            finite.store(false, Ordering::Relaxed);
        }
        store(isa, sum, out);
    });
    finite.into_inner()
}

/// `sum += weight·values`
pub fn accumulate(isa: Isa, sum: &mut [f64], values: Values, weight: f64) {
    parallel_chunks(sum, 1 << 15, |chunk, sum| {
        let start = chunk * (1 << 15);
        with_values!(Values, values, slice => add_scaled(isa, sum, &slice[start..start + sum.len()], weight));
    });
}

/// Writes `factor·sum`, rounded.
pub fn scale(isa: Isa, sum: &[f64], factor: f64, out: ValuesMut) {
    let tensor = [vec![Values::F64(sum)]];
    let _ = weighted_sum(isa, &tensor, &[factor], vec![out]);
}

/// Whether every number is finite.
#[must_use]
pub fn is_finite(isa: Isa, values: Values) -> bool {
    with_values!(Values, values, slice => slice.chunks(1 << 12).all(|chunk| excess(isa, chunk) == 0.0))
}

vectorized! {
    /// 0 unless an element is not finite.
    fn excess<T: Number>(row: &[T]) -> f64 {
        const LANES: usize = 16;
        let mut lanes = [0.0; LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                let x = chunk[i].wide();
                lanes[i] += 0.0 * x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            let x = x.wide();
            *lane += 0.0 * x;
        }
        lanes.iter().sum::<f64>()
    }
}
