//! CPU kernels: gather and scatter-add of rows.

use crate::runtime::disjoint::parallel_chunks;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::scratch;

/// Elements below which a task of its own costs more than it saves.
const GRAIN: usize = 1 << 15;

/// `out[i] = table[rows[i]]`, each row `hidden` long.
pub(super) fn gather<T: Element>(hidden: usize, table: &[T], rows: &[u32], out: &mut [T]) {
    if hidden == 0 {
        return;
    }
    let step = (GRAIN / hidden).max(1);
    parallel_chunks(out, step * hidden, |i, out| {
        for (out, &row) in out.chunks_exact_mut(hidden).zip(&rows[i * step..]) {
            out.copy_from_slice(&table[row as usize * hidden..][..hidden]);
        }
    });
}

/// `table[r] = Σ grad[i]` over all `i` with `rows[i] = r`.
pub(super) fn scatter_add<T: Element>(isa: Isa, hidden: usize, rows: &[u32], grad: &[T], table: &mut [T]) {
    if hidden == 0 {
        return;
    }
    // Places by the row they use; the sort is stable, so each row's places stay in order.
    let mut positions: Vec<usize> = (0..rows.len()).collect();
    positions.sort_by_key(|&position| rows[position]);
    let step = (GRAIN / hidden).max(1);
    parallel_chunks(table, step * hidden, |i, table| {
        let first = i * step;
        let mut positions =
            &positions[positions.partition_point(|&position| (rows[position] as usize) < first)..];
        let mut wide = scratch::take(2 * hidden);
        for (row, out) in (first..).zip(table.chunks_exact_mut(hidden)) {
            let count = positions.iter().take_while(|&&position| rows[position] as usize == row).count();
            let (occurrences, rest) = positions.split_at(count);
            positions = rest;
            add_rows(isa, occurrences, grad, out, &mut wide);
        }
    });
}

vectorized! {
    /// `out` = sum of the rows `occurrences` of `grad`.
    fn add_rows<T: Element>(occurrences: &[usize], grad: &[T], out: &mut [T], wide: &mut [f32]) {
        let hidden = out.len();
        let (sum, wide) = wide.split_at_mut(hidden);
        match occurrences {
            [] => out.fill(T::from_f32(0.0)),
            [only] => out.copy_from_slice(&grad[only * hidden..][..hidden]),
            occurrences => {
                sum.fill(0.0);
                for occurrence in occurrences {
                    T::widen(&grad[occurrence * hidden..][..hidden], wide);
                    for (sum, x) in sum.iter_mut().zip(&*wide) {
                        *sum += x;
                    }
                }
                T::narrow(sum, out);
            }
        }
    }
}
