//! Statistics of sorted columns. A sorting network compares whole rows of a block, so that every instruction works on
//! neighbouring columns, whatever the number of clients.

use super::block::{Block, Mixture, store};
use super::number::{Values, ValuesMut};
use super::tasks;
use crate::runtime::disjoint::parallel_items;
use crate::runtime::isa::{Isa, vectorized};

/// What becomes of a column of numbers.
#[derive(Debug, Clone, Copy)]
pub enum Statistic {
    /// Mean without the smallest and the largest `cut` numbers; the median if one or two are left.
    TrimmedMean {
        /// Numbers left out on each side.
        cut: usize,
    },
    /// Mean of the `keep` numbers that are closest to the median.
    MeanAroundMedian {
        /// Numbers that count.
        keep: usize,
    },
}

/// Columns sorted at a time: with 50 clients they stay in the first-level cache.
const WIDTH: usize = 64;

/// Columns of one task.
const TASK: usize = 64 * WIDTH;

/// Writes the statistic of each column of each tensor, of the clients or of mixtures of them; all are finite.
///
/// # Panics
/// If the statistic leaves no number.
pub fn column_statistic(
    isa: Isa,
    tensors: &[Vec<Values>],
    mixture: Option<&Mixture>,
    statistic: Statistic,
    outputs: Vec<ValuesMut>,
) {
    let clients = tensors.first().map_or(0, Vec::len);
    let rows = mixture.map_or(clients, <[_]>::len);
    let middle = (rows - 1) / 2;
    let needed = match statistic {
        Statistic::TrimmedMean { cut } => {
            assert!(2 * cut < rows, "cut {cut} on both sides of {rows}");
            cut..rows - cut
        }
        Statistic::MeanAroundMedian { keep } => {
            assert!((1..=rows).contains(&keep), "{keep} of {rows}");
            0..rows
        }
    };
    let network = pruned(&merge_exchange(rows), rows, &needed);
    parallel_items(tasks(tensors, outputs, TASK), |(values, columns, out)| {
        let (mut block, mut wide) = (Block::new(), vec![0.0; columns.len()]);
        for (part, out) in wide.chunks_mut(WIDTH).enumerate() {
            let start = columns.start + part * WIDTH;
            let rows = block.load(isa, values, &(start..start + out.len()), mixture);
            sort(isa, rows, out.len(), &network);
            match statistic {
                Statistic::TrimmedMean { .. } => mean(isa, rows, out, &needed),
                Statistic::MeanAroundMedian { keep } => around(rows, out, middle, keep),
            }
        }
        store(isa, &wide, out);
    });
}

/// Comparators of Batcher's merge exchange (Knuth, The Art of Computer Programming 5.2.2, algorithm M) for `n` numbers.
fn merge_exchange(n: usize) -> Vec<(usize, usize)> {
    let mut comparators = Vec::new();
    let top = n.next_power_of_two() / 2;
    let mut p = top;
    while p > 0 {
        let (mut q, mut r, mut d) = (top, 0, p);
        loop {
            comparators.extend((0..n.saturating_sub(d)).filter(|i| i & p == r).map(|i| (i, i + d)));
            if q == p {
                break;
            }
            (d, q, r) = (q - p, q / 2, p);
        }
        p /= 2;
    }
    comparators
}

/// The comparators that decide what stands in the rows `needed`.
fn pruned(network: &[(usize, usize)], rows: usize, needed: &std::ops::Range<usize>) -> Vec<(usize, usize)> {
    let mut live: Vec<bool> = (0..rows).map(|row| needed.contains(&row)).collect();
    let mut kept: Vec<_> = network
        .iter()
        .rev()
        .filter(|&&(low, high)| {
            let decides = live[low] || live[high];
            if decides {
                (live[low], live[high]) = (true, true);
            }
            decides
        })
        .copied()
        .collect();
    kept.reverse();
    kept
}

/// Mean of the `keep` numbers closest to the median of each sorted column: they are neighbours.
fn around(rows: &[f64], out: &mut [f64], middle: usize, keep: usize) {
    let width = out.len();
    let count = rows.len() / width;
    for (column, out) in out.iter_mut().enumerate() {
        let at = |row: usize| rows[row * width + column];
        let median = f64::midpoint(at(middle), at(count - 1 - middle));
        let distance = |row: usize| (at(row) - median).abs();
        let (mut start, mut end) = (0, count);
        while end - start > keep {
            if distance(start) > distance(end - 1) { start += 1 } else { end -= 1 }
        }
        *out = (start..end).map(at).sum::<f64>() / keep as f64;
    }
}

vectorized! {
    /// Sorts every column of `rows`, `[count, width]`.
    fn sort(rows: &mut [f64], width: usize, network: &[(usize, usize)]) {
        for &(low, high) in network {
            let (before, after) = rows.split_at_mut(high * width);
            let pairs = before[low * width..][..width].iter_mut().zip(&mut after[..width]);
            for (low, high) in pairs {
                let (a, b) = (*low, *high);
                *low = if a < b { a } else { b };
                *high = if a < b { b } else { a };
            }
        }
    }

    fn mean(rows: &[f64], out: &mut [f64], kept: &std::ops::Range<usize>) {
        let width = out.len();
        out.fill(0.0);
        for row in rows.chunks_exact(width).take(kept.end).skip(kept.start) {
            for (sum, x) in out.iter_mut().zip(row) {
                *sum += x;
            }
        }
        let count = kept.len() as f64;
        for sum in out {
            *sum /= count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_sort_zeros_and_ones() {
        // A network that sorts every row of zeros and ones sorts everything (Knuth, 5.3.4).
        for n in 1..=13 {
            let network = merge_exchange(n);
            for bits in 0..1_u32 << n {
                let mut row: Vec<f64> = (0..n).map(|i| f64::from(bits >> i & 1)).collect();
                sort(Isa::Portable, &mut row, 1, &network);
                assert!(row.is_sorted(), "{n} {bits:b}");
            }
        }
    }

    #[test]
    fn a_pruned_network_finds_the_middle() {
        for n in [3, 8, 11] {
            let middle = (n - 1) / 2..n / 2 + 1;
            let network = pruned(&merge_exchange(n), n, &middle);
            assert!(network.len() <= merge_exchange(n).len());
            for bits in 0..1_u32 << n {
                let mut row: Vec<f64> = (0..n).map(|i| f64::from(bits >> i & 1)).collect();
                sort(Isa::Portable, &mut row, 1, &network);
                let found = row[middle.clone()].to_vec();
                row.sort_by(f64::total_cmp);
                assert_eq!(found, row[middle.clone()], "{n} {bits:b}");
            }
        }
    }
}
