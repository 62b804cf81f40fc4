//! `cblas_sgemm` of the [BLAS](https://www.netlib.org/blas/) interface, for MLX.
//!
//! MLX's Linux wheel bundles a single-threaded, scalar `cblas_sgemm` for f32 products on the CPU. [`accelerate`] redirects
//! its calls to this crate.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::disjoint::Disjoint;
use crate::runtime::isa::Isa;

#[cfg(target_os = "linux")]
mod link;
mod product;

use product::{Operand, Output, sgemm};

/// `CblasRowMajor`; the other order is `CblasColMajor`.
const ROW_MAJOR: c_int = 101;
/// `CblasNoTrans`; `CblasTrans` and `CblasConjTrans` are the same for real numbers.
const AS_STORED: c_int = 111;

static CALLS: AtomicU64 = AtomicU64::new(0);

/// Redirects MLX's calls of `cblas_sgemm` to [`cblas_sgemm`] of this crate. Returns whether MLX imports the symbol.
///
/// Has no effect outside Linux.
#[must_use]
pub fn accelerate() -> bool {
    #[cfg(target_os = "linux")]
    {
        link::replace("libmlx.so", c"cblas_sgemm", cblas_sgemm as *const () as usize) > 0
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Number of calls of [`cblas_sgemm`] by this process so far.
#[must_use]
pub fn sgemm_calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// `C = alpha·op(A)·op(B) + beta·C` with `C: [m, n]`, `op(A): [m, k]`, `op(B): [k, n]`, as BLAS defines it.
///
/// `order` selects row-major or column-major matrices, `transpose_*` whether `op` transposes, and `stride_*` is the leading
/// dimension in elements. `C` is not read if `beta` is 0.
///
/// # Safety
/// The pointers address matrices of these sizes; `C` overlaps neither operand, and nothing else accesses it meanwhile.
///
/// # Panics
/// Negative sizes or strides shorter than a row abort the process, as in the reference BLAS.
#[allow(clippy::too_many_arguments)] // The interface is not ours.
pub unsafe extern "C" fn cblas_sgemm(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    stride_a: c_int,
    b: *const f32,
    stride_b: c_int,
    beta: f32,
    c: *mut f32,
    stride_c: c_int,
) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    let size = |number: c_int| usize::try_from(number).expect("cblas_sgemm: a negative size");
    let (m, n, k) = (size(m), size(n), size(k));
    let left = (a, size(stride_a), transpose_a != AS_STORED);
    let right = (b, size(stride_b), transpose_b != AS_STORED);
    // A column-major matrix is its transpose in row-major, and (A·B)ᵀ = Bᵀ·Aᵀ.
    let [(m, left), (n, right)] =
        if order == ROW_MAJOR { [(m, left), (n, right)] } else { [(n, right), (m, left)] };
    if m == 0 || n == 0 {
        return;
    }
    let used = if alpha == 0.0 { 0 } else { k };
    let operand = |(data, stride, transposed): (*const f32, usize, bool), shape: [usize; 2]| {
        let [rows, columns] = if transposed { [shape[1], shape[0]] } else { shape };
        // SAFETY: the caller vouches for a matrix of this size.
        let data = unsafe { std::slice::from_raw_parts(data, span(rows, columns, stride)) };
        Operand { data, shape: (rows, columns), stride, transposed }
    };
    let stride = size(stride_c);
    let empty = Operand { data: &[], shape: (0, 0), stride: 0, transposed: false };
    let (a, b) = if used == 0 { (empty, empty) } else { (operand(left, [m, k]), operand(right, [k, n])) };
    // SAFETY: as above; nobody else uses C.
    let c = unsafe { Disjoint::from_raw(c, span(m, n, stride)) };
    sgemm(Isa::current(), [m, n, used], alpha, a, b, beta, Output { data: c, stride });
}

/// Elements from the first to the last of a matrix.
fn span(rows: usize, columns: usize, stride: usize) -> usize {
    assert!(stride >= columns, "cblas_sgemm: rows of {columns} numbers, {stride} apart");
    (rows - 1) * stride + columns
}

#[cfg(test)]
mod tests;
