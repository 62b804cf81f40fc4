//! One product with a packed matrix, and how several are cut into tasks.

use std::ops::Range;

use super::QuantizedRows;
use crate::runtime::disjoint::Disjoint;
use crate::runtime::pool::parallel_for;

/// `y = x·weightsᵀ`, row-major.
pub(crate) struct Product<'a> {
    pub weights: QuantizedRows<'a>,
    pub y: &'a mut [f32],
}

/// Calls `task` for `step` rows of weights at a time of all `products`: with the weights, the rows and the whole of `y`.
pub(super) fn run_blocks(
    products: &mut [Product],
    step: usize,
    task: impl Fn(&QuantizedRows, Range<usize>, Disjoint<f32>) + Sync,
) {
    let mut blocks = Vec::new();
    for Product { weights, y } in products {
        let (n, y) = (weights.rows, Disjoint::new(y));
        blocks.extend((0..n).step_by(step).map(|start| (*weights, start..n.min(start + step), y)));
    }
    parallel_for(blocks.len(), |index| {
        let (weights, rows, y) = &blocks[index];
        task(weights, rows.clone(), *y);
    });
}
