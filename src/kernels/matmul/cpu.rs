//! The CPU kernel: the `gemm` crate on every core, in f32 whatever the operands are.
//!
//! Rows and columns of the result are split among threads, never the sum over `k`, so
//! the result does not depend on how many threads there are.

use gemm::Parallelism;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::super::op::{Slice, SliceMut};
use super::{Geometry, Transpose};

/// Work below which waking other threads costs more than it saves, in multiply-adds.
const SERIAL_BELOW: usize = 1 << 16;

pub(super) fn run(geometry: Geometry, transpose: Transpose, a: &Slice, b: &Slice, out: &mut SliceMut) {
    let (a, b) = (to_f32(a), to_f32(b));
    match out {
        SliceMut::F32(out) => products(geometry, transpose, &a, &b, out),
        SliceMut::F16(out) => {
            let mut wide = vec![0.0; out.len()];
            products(geometry, transpose, &a, &b, &mut wide);
            out.convert_from_f32_slice(&wide);
        }
        SliceMut::Bf16(out) => {
            let mut wide = vec![0.0; out.len()];
            products(geometry, transpose, &a, &b, &mut wide);
            out.convert_from_f32_slice(&wide);
        }
    }
}

fn to_f32<'a>(slice: &Slice<'a>) -> std::borrow::Cow<'a, [f32]> {
    match slice {
        Slice::F32(data) => (*data).into(),
        Slice::F16(data) => data.to_f32_vec().into(),
        Slice::Bf16(data) => data.to_f32_vec().into(),
        _ => unreachable!("matmul takes floats"),
    }
}

fn products(geometry: Geometry, transpose: Transpose, a: &[f32], b: &[f32], out: &mut [f32]) {
    let Geometry { batch, m, n, k, shared_b } = geometry;
    if out.is_empty() {
        return;
    }
    if k == 0 {
        return out.fill(0.0);
    }
    // With one shared `b` the batch is just more rows.
    if shared_b && !transpose.a {
        return product([batch * m, n, k], transpose, a, b, out, parallelism(batch * m * n * k));
    }
    let b_of = |i: usize| if shared_b { b } else { &b[i * k * n..][..k * n] };
    let one = |(i, out): (usize, &mut [f32]), threads| {
        product([m, n, k], transpose, &a[i * m * k..][..m * k], b_of(i), out, threads);
    };
    if batch > 1 && batch * m * n * k >= SERIAL_BELOW {
        out.par_chunks_mut(m * n).enumerate().for_each(|item| one(item, Parallelism::None));
    } else {
        out.chunks_mut(m * n).enumerate().for_each(|item| one(item, parallelism(m * n * k)));
    }
}

fn parallelism(work: usize) -> Parallelism {
    // 0: as many threads as rayon has.
    if work < SERIAL_BELOW { Parallelism::None } else { Parallelism::Rayon(0) }
}

fn product(
    [m, n, k]: [usize; 3],
    transpose: Transpose,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    threads: Parallelism,
) {
    assert!(a.len() == m * k && b.len() == k * n && out.len() == m * n, "matmul: operand sizes");
    let strides = |turned: bool, rows: usize, cols: usize| {
        if turned { (rows as isize, 1) } else { (1, cols as isize) }
    };
    let (a_cs, a_rs) = strides(transpose.a, m, k);
    let (b_cs, b_rs) = strides(transpose.b, k, n);
    // SAFETY: the strides address exactly the elements whose number was just checked, and
    // `out` is borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            a_cs,
            a_rs,
            b.as_ptr(),
            b_cs,
            b_rs,
            0.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}
