//! Updates of many clients: weighted sums, statistics of columns, distances. No MLX.
//!
//! A tensor is a list of slices, one per client, all of one length. Every operation reads float64, float32, float16 and
//! bfloat16, computes in float64 and rounds once. The order of additions depends on shapes alone.

use std::ops::Range;

mod average;
mod block;
mod distances;
mod number;
mod sorted;
#[cfg(test)]
mod tests;

pub use average::{accumulate, is_finite, scale, weighted_sum};
pub use block::Mixture;
pub use distances::squared_distances;
pub use number::{Values, ValuesMut};
pub use sorted::{Statistic, column_statistic};

/// Splits every tensor and its output into parts of at most `len` columns.
fn tasks<'a, 'b>(
    tensors: &'b [Vec<Values<'a>>],
    outputs: Vec<ValuesMut<'b>>,
    len: usize,
) -> impl Iterator<Item = (&'b [Values<'a>], Range<usize>, ValuesMut<'b>)> {
    tensors.iter().zip(outputs).flat_map(move |(clients, output)| {
        output.chunks(len).into_iter().enumerate().map(move |(part, out)| {
            let start = part * len;
            (clients.as_slice(), start..start + out.len(), out)
        })
    })
}
