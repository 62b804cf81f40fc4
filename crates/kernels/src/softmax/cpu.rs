//! CPU kernels: row by row in f32.

use crate::runtime::disjoint::parallel_items;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::math::exp;
use crate::runtime::reduce::{dot, max, sum};
use crate::runtime::scratch;

/// Elements below which a task of its own costs more than it saves.
const GRAIN: usize = 1 << 14;

/// Elements of one task: whole rows.
fn task_len(columns: usize) -> usize {
    (GRAIN / columns).max(1) * columns
}

pub(super) fn softmax<T: Element>(isa: Isa, columns: usize, x: &[T], y: &mut [T]) {
    if y.is_empty() {
        return;
    }
    let len = task_len(columns);
    parallel_items(x.chunks(len).zip(y.chunks_mut(len)), |(x, y)| {
        softmax_rows(isa, x, y, &mut scratch::take(columns));
    });
}

/// `dx = y·(grad - Σ grad·y)`
pub(super) fn softmax_backward<T: Element>(isa: Isa, columns: usize, y: &[T], grad: &[T], dx: &mut [T]) {
    if dx.is_empty() {
        return;
    }
    let len = task_len(columns);
    parallel_items(y.chunks(len).zip(grad.chunks(len)).zip(dx.chunks_mut(len)), |((y, grad), dx)| {
        softmax_rows_backward(isa, y, grad, dx, &mut scratch::take(2 * columns));
    });
}

vectorized! {
    fn softmax_rows<T: Element>(x: &[T], y: &mut [T], wide: &mut [f32]) {
        let columns = wide.len();
        for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact_mut(columns)) {
            T::widen(x, wide);
            let largest = max(wide);
            for x in wide.iter_mut() {
                *x = exp(*x - largest);
            }
            let scale = 1.0 / sum(wide);
            for x in wide.iter_mut() {
                *x *= scale;
            }
            T::narrow(wide, y);
        }
    }

    fn softmax_rows_backward<T: Element>(y: &[T], grad: &[T], dx: &mut [T], wide: &mut [f32]) {
        let columns = wide.len() / 2;
        let (wide, grads) = wide.split_at_mut(columns);
        let rows = y.chunks_exact(columns).zip(grad.chunks_exact(columns));
        for ((y, grad), dx) in rows.zip(dx.chunks_exact_mut(columns)) {
            T::widen(y, wide);
            T::widen(grad, grads);
            let along = dot(wide, grads);
            for (y, grad) in wide.iter_mut().zip(&*grads) {
                *y *= grad - along;
            }
            T::narrow(wide, dx);
        }
    }
}
