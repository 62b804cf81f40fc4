//! CPU kernel: a blocked product for many rows, a matrix-vector product for few, with f32 accumulation.
//!
//! Threads divide rows and columns of the result, never the sum over `k`, so the result does not depend on the number
//! of threads.

use half::{bf16, f16};

use super::{Geometry, Transpose};
use crate::gemm::gemv::{self, Weight};
use crate::gemm::{Dense, Lanes, Packed, Precision, multiply, store};
use crate::runtime::disjoint::{Disjoint, parallel_chunks};
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::operand::{Slice, SliceMut};
use crate::runtime::pool::threads;
use crate::runtime::scratch;

/// Rows of the result for which `b` is best read where it is.
const DIRECT_ROWS: usize = 8;
/// Multiply-adds that one task of a batch has at least.
const TASK: usize = 1 << 16;

pub(super) fn run(
    isa: Isa,
    geometry: Geometry,
    transpose: Transpose,
    a: &Slice,
    b: &Slice,
    out: &mut SliceMut,
) {
    match out {
        SliceMut::F32(out) => products::<f32>(isa, Precision::F32, geometry, transpose, a, b, out),
        SliceMut::F16(out) => products::<f16>(isa, Precision::F32, geometry, transpose, a, b, out),
        SliceMut::Bf16(out) => products::<bf16>(isa, Precision::Bf16, geometry, transpose, a, b, out),
    }
}

fn products<T: Weight>(
    isa: Isa,
    precision: Precision,
    geometry: Geometry,
    transpose: Transpose,
    a: &Slice,
    b: &Slice,
    out: &mut [T],
) {
    let Geometry { batch, m, n, k, shared_b } = geometry;
    let (a, b) = (T::of(a), T::of(b));
    if out.is_empty() {
        return;
    }
    if k == 0 {
        return out.fill(T::from_f32(0.0));
    }
    let product = |size, a: &[T], b: &[T], out: &mut [T]| product(isa, precision, size, transpose, a, b, out);
    // With one shared `b` the batch is just more rows.
    if shared_b && !transpose.a {
        return product([batch * m, n, k], a, b, out);
    }
    let one = |i: usize, out: &mut [T]| {
        let b = if shared_b { b } else { &b[i * k * n..][..k * n] };
        product([m, n, k], &a[i * m * k..][..m * k], b, out);
    };
    // A product within a task runs on the task's thread; a few large ones take all threads one by one.
    if batch >= 2 * threads() {
        let at_once = (TASK / (m * n * k)).max(1);
        parallel_chunks(out, at_once * m * n, |task, out| {
            out.chunks_mut(m * n).enumerate().for_each(|(i, out)| one(task * at_once + i, out));
        });
    } else {
        out.chunks_mut(m * n).enumerate().for_each(|(i, out)| one(i, out));
    }
}

fn product<T: Weight>(
    isa: Isa,
    precision: Precision,
    [m, n, k]: [usize; 3],
    transpose: Transpose,
    a: &[T],
    b: &[T],
    out: &mut [T],
) {
    if m <= DIRECT_ROWS && transpose == Transpose::B {
        let (mut x, mut y) = (scratch::take::<f32>(m * k), scratch::take::<f32>(m * n));
        widen(isa, a, &mut x);
        gemv::dense(isa, &x, b, k, &mut y);
        return narrow(isa, &y, out);
    }
    let matrix = |data, transposed, rows, columns| {
        Dense::new(data, if transposed { (columns, rows) } else { (rows, columns) })
    };
    let (a, b) = (matrix(a, transpose.a, m, k), matrix(b, transpose.b, k, n));
    let left = if transpose.a { Lanes::columns(&a) } else { Lanes::rows(&a) };
    let right = if transpose.b { Lanes::rows(&b) } else { Lanes::columns(&b) };
    let left = Packed::new(isa, precision, left);
    let out = Disjoint::new(out);
    multiply(isa, &[(&left, right)], |tile| store(isa, tile, None, &out, n));
}

vectorized! {
    fn widen<T: Weight>(row: &[T], wide: &mut [f32]) {
        T::widen(row, wide);
    }

    fn narrow<T: Weight>(wide: &[f32], row: &mut [T]) {
        T::narrow(wide, row);
    }
}
