//! Squared Euclidean distances between clients, over all tensors.
//!
//! Differences are taken before they are squared: `‖x‖² + ‖y‖² - 2x·y` would lose the distance of clients that differ
//! little beside their norms, as clients of one round do.

use super::block::Block;
use super::number::Values;
use crate::runtime::disjoint::parallel_items;
use crate::runtime::isa::{Isa, vectorized};

/// Bytes of a block, which stays in the second-level cache.
const BLOCK_BYTES: usize = 192 << 10;

/// Tasks per tensor, more than any machine needs to keep its threads busy.
const TASKS: usize = 64;

/// Clients whose distances to as many others are added up at once, in registers.
const TILE: usize = 4;

/// Columns of one step.
const LANES: usize = 8;

/// `‖clientᵢ - clientⱼ‖²`, `[clients, clients]`. Not finite for a client with numbers that are not.
#[must_use]
pub fn squared_distances(isa: Isa, tensors: &[Vec<Values>]) -> Vec<f64> {
    let clients = tensors.first().map_or(0, Vec::len);
    let padded = clients.next_multiple_of(TILE);
    let width = (BLOCK_BYTES / size_of::<f64>() / padded.max(1)).clamp(LANES, 512) / LANES * LANES;
    let mut tasks = Vec::new();
    for values in tensors {
        let len = values.first().map_or(0, Values::len);
        let step = len.div_ceil(TASKS).next_multiple_of(width);
        tasks.extend(
            (0..len).step_by(step.max(1)).map(|start| (values, start..(start + step).min(len), Vec::new())),
        );
    }
    // The sums are added in the order of the tasks, which does not depend on threads.
    let mut sums = vec![0.0; clients * clients];
    let mut parts: Vec<Vec<f64>> = vec![Vec::new(); tasks.len()];
    parallel_items(tasks.iter_mut().zip(&mut parts), |((values, columns, scratch), sums)| {
        sums.resize(clients * clients, 0.0);
        let mut block = Block::new();
        for start in columns.clone().step_by(width) {
            let columns = start..(start + width).min(columns.end);
            let rows = block.load(isa, values, &columns, None);
            pad(rows, columns.len(), padded, width, scratch);
            add_distances(isa, scratch, width, clients, sums);
        }
    });
    for part in parts {
        for (sum, x) in sums.iter_mut().zip(part) {
            *sum += x;
        }
    }
    for i in 0..clients {
        for j in 0..i {
            sums[i * clients + j] = sums[j * clients + i];
        }
    }
    sums
}

/// Copies `rows`, `[clients, columns]`, to `[padded, width]` with zeros around.
fn pad(rows: &[f64], columns: usize, padded: usize, width: usize, scratch: &mut Vec<f64>) {
    scratch.clear();
    scratch.resize(padded * width, 0.0);
    for (row, padded) in rows.chunks(columns).zip(scratch.chunks_mut(width)) {
        padded[..columns].copy_from_slice(row);
    }
}

vectorized! {
    /// Adds the distances of pairs `i <= j` of the rows of `block`, `[padded, width]`.
    fn add_distances(block: &[f64], width: usize, clients: usize, sums: &mut [f64]) {
        let row = |client: usize| block[client * width..][..width].as_chunks::<LANES>().0;
        for first in (0..clients).step_by(TILE) {
            for second in (first..clients).step_by(TILE) {
                let (a, b): ([_; TILE], [_; TILE]) =
                    (std::array::from_fn(|i| row(first + i)), std::array::from_fn(|j| row(second + j)));
                let mut lanes = [[[0.0; LANES]; TILE]; TILE];
                for column in 0..width / LANES {
                    for i in 0..TILE {
                        for j in 0..TILE {
                            for lane in 0..LANES {
                                let difference = a[i][column][lane] - b[j][column][lane];
                                lanes[i][j][lane] += difference * difference;
                            }
                        }
                    }
                }
                for i in first..(first + TILE).min(clients) {
                    for j in second..(second + TILE).min(clients) {
                        sums[i * clients + j] += lanes[i - first][j - second].iter().sum::<f64>();
                    }
                }
            }
        }
    }
}
