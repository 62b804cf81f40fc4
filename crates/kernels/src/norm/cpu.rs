//! CPU kernels: row by row in f32, in one pass over memory.

use crate::runtime::disjoint::parallel_items;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::reduce::{dot, sum};
use crate::runtime::scratch;

/// Elements below which a task of its own costs more than it saves.
const GRAIN: usize = 1 << 15;

/// Tasks at most: each has a partial sum of the gradient of the weight.
const MAX_TASKS: usize = 64;

/// Elements of one task: whole rows. By shape alone, so that sums never depend on the threads.
fn task_len(len: usize, columns: usize) -> usize {
    let rows = len / columns;
    (GRAIN / columns).max(rows.div_ceil(MAX_TASKS)).max(1) * columns
}

/// `normed = x / √(mean(x²) + eps) · weight`; the length of `weight` is that of a row.
pub(super) fn rms_norm<T: Element>(isa: Isa, x: &[T], weight: &[f32], eps: f32, normed: &mut [T]) {
    let columns = weight.len();
    if normed.is_empty() {
        return;
    }
    let len = task_len(x.len(), columns);
    parallel_items(x.chunks(len).zip(normed.chunks_mut(len)), |(x, normed)| {
        rms_rows(isa, x, weight, eps, normed, &mut scratch::take(columns));
    });
}

/// `sum = x + delta`, rounded, and `normed` as [`rms_norm`] of it.
pub(super) fn residual_rms_norm<T: Element>(
    isa: Isa,
    [x, delta]: [&[T]; 2],
    weight: &[f32],
    eps: f32,
    [sum, normed]: [&mut [T]; 2],
) {
    let columns = weight.len();
    if normed.is_empty() {
        return;
    }
    let len = task_len(x.len(), columns);
    let inputs = x.chunks(len).zip(delta.chunks(len));
    let outputs = sum.chunks_mut(len).zip(normed.chunks_mut(len));
    parallel_items(inputs.zip(outputs), |((x, delta), (sum, normed))| {
        let mut wide = scratch::take(2 * columns);
        // Row by row, so that the sum is still in the cache when it is read again.
        for (i, sum) in sum.chunks_mut(columns).enumerate() {
            let row = i * columns..(i + 1) * columns;
            add_row(isa, &x[row.clone()], &delta[row.clone()], sum, &mut wide);
            rms_rows(isa, sum, weight, eps, &mut normed[row], &mut wide[..columns]);
        }
    });
}

/// Gradients of [`rms_norm`], or of [`residual_rms_norm`] with `sum_grad` as that of the sum; `dx` has the
/// length of `x`, and `dweight` that of `weight` or none when it is not asked for.
pub(super) fn rms_norm_backward<T: Element>(
    isa: Isa,
    [x, grad, sum_grad]: [&[T]; 3],
    weight: &[f32],
    eps: f32,
    dx: &mut [T],
    dweight: &mut [f32],
) {
    let columns = weight.len();
    dweight.fill(0.0);
    if dx.is_empty() {
        return;
    }
    let len = task_len(x.len(), columns);
    let mut partial = scratch::take(x.len().div_ceil(len) * dweight.len());
    let outputs = dx.chunks_mut(len).zip(parts(&mut partial, dweight.len()));
    let inputs = x.chunks(len).zip(grad.chunks(len)).zip(parts_of(sum_grad, len));
    parallel_items(inputs.zip(outputs), |(((x, grad), sum_grad), (dx, partial))| {
        partial.fill(0.0);
        let mut wide = scratch::take(2 * columns);
        rms_rows_backward(isa, x, grad, sum_grad, weight, eps, dx, partial, &mut wide);
    });
    add_partial(isa, &partial, dweight);
}

/// `normed = (x - mean) / √(variance + eps) · weight + bias`
pub(super) fn layer_norm<T: Element>(
    isa: Isa,
    x: &[T],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    normed: &mut [T],
) {
    let columns = weight.len();
    if normed.is_empty() {
        return;
    }
    let len = task_len(x.len(), columns);
    parallel_items(x.chunks(len).zip(normed.chunks_mut(len)), |(x, normed)| {
        layer_rows(isa, x, weight, bias, eps, normed, &mut scratch::take(columns));
    });
}

/// Gradients of [`layer_norm`]; `dparameters` holds that of the weight and that of the bias one after the
/// other, or nothing when they are not asked for.
pub(super) fn layer_norm_backward<T: Element>(
    isa: Isa,
    [x, grad]: [&[T]; 2],
    weight: &[f32],
    eps: f32,
    dx: &mut [T],
    dparameters: &mut [f32],
) {
    let columns = weight.len();
    dparameters.fill(0.0);
    if dx.is_empty() {
        return;
    }
    let len = task_len(x.len(), columns);
    let mut partial = scratch::take(x.len().div_ceil(len) * dparameters.len());
    let outputs = dx.chunks_mut(len).zip(parts(&mut partial, dparameters.len()));
    parallel_items(x.chunks(len).zip(grad.chunks(len)).zip(outputs), |((x, grad), (dx, partial))| {
        partial.fill(0.0);
        layer_rows_backward(isa, x, grad, weight, eps, dx, partial, &mut scratch::take(2 * columns));
    });
    add_partial(isa, &partial, dparameters);
}

/// Chunks of `len`, or endless empty ones for `len` 0.
fn parts(mut slice: &mut [f32], len: usize) -> impl Iterator<Item = &mut [f32]> {
    std::iter::from_fn(move || slice.split_off_mut(..len))
}

/// Chunks of at most `len`, or endless empty ones of an empty slice.
fn parts_of<T>(slice: &[T], len: usize) -> impl Iterator<Item = &[T]> {
    let empty = if slice.is_empty() { usize::MAX } else { 0 };
    slice.chunks(len).chain(std::iter::repeat_n(&slice[..0], empty))
}

vectorized! {
    fn add_row<T: Element>(x: &[T], delta: &[T], sum: &mut [T], wide: &mut [f32]) {
        let (wide, more) = wide.split_at_mut(sum.len());
        T::widen(x, wide);
        T::widen(delta, more);
        for (x, delta) in wide.iter_mut().zip(&*more) {
            *x += delta;
        }
        T::narrow(wide, sum);
    }

    fn add_partial(partial: &[f32], total: &mut [f32]) {
        for part in partial.chunks(total.len().max(1)) {
            for (total, part) in total.iter_mut().zip(part) {
                *total += part;
            }
        }
    }

    fn rms_rows<T: Element>(x: &[T], weight: &[f32], eps: f32, normed: &mut [T], wide: &mut [f32]) {
        let columns = weight.len();
        for (x, normed) in x.chunks_exact(columns).zip(normed.chunks_exact_mut(columns)) {
            T::widen(x, wide);
            let scale = 1.0 / (dot(wide, wide) / columns as f32 + eps).sqrt();
            for (x, weight) in wide.iter_mut().zip(weight) {
                *x = *x * scale * weight;
            }
            T::narrow(wide, normed);
        }
    }

    fn rms_rows_backward<T: Element>(
        x: &[T],
        grad: &[T],
        sum_grad: &[T],
        weight: &[f32],
        eps: f32,
        dx: &mut [T],
        dweight: &mut [f32],
        wide: &mut [f32],
    ) {
        let columns = weight.len();
        let (wide, grads) = wide.split_at_mut(columns);
        for (i, dx) in dx.chunks_exact_mut(columns).enumerate() {
            let row = i * columns..(i + 1) * columns;
            T::widen(&x[row.clone()], wide);
            T::widen(&grad[row.clone()], grads);
            let scale = 1.0 / (dot(wide, wide) / columns as f32 + eps).sqrt();
            for ((dweight, grad), x) in dweight.iter_mut().zip(&*grads).zip(&*wide) {
                *dweight += grad * (x * scale);
            }
            for (grad, weight) in grads.iter_mut().zip(weight) {
                *grad *= weight;
            }
            let along = dot(grads, wide) / columns as f32 * scale * scale * scale;
            for (x, grad) in wide.iter_mut().zip(&*grads) {
                *x = grad * scale - *x * along;
            }
            if !sum_grad.is_empty() {
                T::widen(&sum_grad[row], grads);
                for (x, grad) in wide.iter_mut().zip(&*grads) {
                    *x += grad;
                }
            }
            T::narrow(wide, dx);
        }
    }

    fn layer_rows<T: Element>(
        x: &[T],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        normed: &mut [T],
        wide: &mut [f32],
    ) {
        let columns = weight.len();
        for (x, normed) in x.chunks_exact(columns).zip(normed.chunks_exact_mut(columns)) {
            T::widen(x, wide);
            let scale = centre(wide, eps);
            for ((x, weight), bias) in wide.iter_mut().zip(weight).zip(bias) {
                *x = *x * scale * weight + bias;
            }
            T::narrow(wide, normed);
        }
    }

    fn layer_rows_backward<T: Element>(
        x: &[T],
        grad: &[T],
        weight: &[f32],
        eps: f32,
        dx: &mut [T],
        dparameters: &mut [f32],
        wide: &mut [f32],
    ) {
        let columns = weight.len();
        let (wide, grads) = wide.split_at_mut(columns);
        let (dweight, dbias) = dparameters.split_at_mut(dparameters.len() / 2);
        let rows = x.chunks_exact(columns).zip(grad.chunks_exact(columns));
        for ((x, grad), dx) in rows.zip(dx.chunks_exact_mut(columns)) {
            T::widen(x, wide);
            T::widen(grad, grads);
            let scale = centre(wide, eps);
            for x in wide.iter_mut() {
                *x *= scale;
            }
            for ((dweight, grad), x) in dweight.iter_mut().zip(&*grads).zip(&*wide) {
                *dweight += grad * x;
            }
            for (dbias, grad) in dbias.iter_mut().zip(&*grads) {
                *dbias += grad;
            }
            for (grad, weight) in grads.iter_mut().zip(weight) {
                *grad *= weight;
            }
            let mean = sum(grads) / columns as f32;
            let along = dot(grads, wide) / columns as f32;
            for (x, grad) in wide.iter_mut().zip(&*grads) {
                *x = (grad - mean - *x * along) * scale;
            }
            T::narrow(wide, dx);
        }
    }
}

/// Subtracts the mean of `row`; the reciprocal of its standard deviation.
#[inline(always)]
#[allow(clippy::inline_always)]
fn centre(row: &mut [f32], eps: f32) -> f32 {
    let columns = row.len() as f32;
    let mean = sum(row) / columns;
    for x in row.iter_mut() {
        *x -= mean;
    }
    1.0 / (dot(row, row) / columns + eps).sqrt()
}
