//! Products of few rows of activations: each stored number is read once; bound by memory bandwidth.

use super::rows::SparseRows;
use super::{MAX_ROWS, with_sparse_rows};
use crate::bitmask::expand;
use crate::bitmask::layout::{View, WORD};
use crate::gemm::gemv::{self, Weight};
use crate::runtime::disjoint::Disjoint;
use crate::runtime::isa::Isa;
use crate::runtime::pool::{parallel_for, threads};
use crate::runtime::scratch;

/// Bytes of a packed matrix per task.
const TASK_BYTES: usize = 64 << 10;

/// `out = x·weightᵀ`, accumulated in f32; best for at most 8 rows of `x`. `weight` are floating-point numbers.
///
/// # Panics
/// If the lengths do not match.
pub(crate) fn multiply(isa: Isa, x: &[f32], weight: View, out: &mut [f32]) {
    with_sparse_rows!(weight, rows => multiply_rows(isa, x, &rows, out));
}

fn multiply_rows<T: Weight + Numbers>(isa: Isa, x: &[f32], weight: &SparseRows<T>, out: &mut [f32]) {
    let (n, columns) = weight.view.layout.shape();
    assert!(x.len() * n == out.len() * columns, "sparse: {} numbers for {n} by {columns}", x.len());
    if columns == 0 || n == 0 {
        return out.fill(0.0);
    }
    let bytes = size_of_val(weight.view.mask) + weight.view.layout.bytes;
    let step = (TASK_BYTES * n / bytes).min(n.div_ceil(4 * threads())).max(1);
    for (x, out) in x.chunks(MAX_ROWS * columns).zip(out.chunks_mut(MAX_ROWS * n)) {
        let rows = x.len() / columns;
        let prepared = Prepared::of::<T>(isa, x, columns);
        let shared = Disjoint::new(out);
        parallel_for(n.div_ceil(step), |task| {
            let range = task * step..((task + 1) * step).min(n);
            let mut block = scratch::take::<f32>(range.len() * rows);
            for (row, out) in range.clone().zip(block.chunks_exact_mut(rows)) {
                prepared.multiply(isa, weight, row, out);
            }
            for i in 0..rows {
                // SAFETY: tasks have different ranges of every row.
                let place = unsafe { shared.part(i * n + range.start..i * n + range.end) };
                for (y, products) in place.iter_mut().zip(block.chunks_exact(rows)) {
                    *y = products[i];
                }
            }
        });
    }
}

/// Numbers that a kernel multiplies as it expands them.
#[cfg(target_arch = "x86_64")]
trait Numbers: super::gemv_avx512::Expand {}
#[cfg(target_arch = "x86_64")]
impl<T: super::gemv_avx512::Expand> Numbers for T {}
#[cfg(not(target_arch = "x86_64"))]
trait Numbers {}
#[cfg(not(target_arch = "x86_64"))]
impl<T> Numbers for T {}

/// Activations in the layout of a kernel.
enum Prepared<'a> {
    /// For rows that are expanded to memory before they are multiplied.
    Rows(&'a [f32]),
    #[cfg(target_arch = "x86_64")]
    Avx512(super::gemv_avx512::Prepared),
}

impl<'a> Prepared<'a> {
    fn of<T: Numbers>(isa: Isa, x: &'a [f32], columns: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if T::is_supported(isa) {
            return Self::Avx512(super::gemv_avx512::Prepared::of::<T>(x, columns));
        }
        let _ = (isa, columns);
        Self::Rows(x)
    }

    /// Writes the products of one row of weights with each row of activations.
    fn multiply<T: Weight + Numbers>(&self, isa: Isa, weight: &SparseRows<T>, row: usize, out: &mut [f32]) {
        let (numbers, mask) = weight.row(row);
        match self {
            Self::Rows(x) => {
                let columns = weight.view.layout.columns;
                let mut all = scratch::take::<T>(mask.len() * WORD);
                // SAFETY: what packed the matrix wrote a number for each place of the mask, and room behind the last one.
                unsafe { expand::numbers(isa, numbers, mask, &mut all) };
                gemv::multiply(isa, x, &all[..columns], columns, out);
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above; the kernel was chosen for this processor.
            Self::Avx512(prepared) => unsafe { prepared.multiply(numbers, mask, out) },
        }
    }
}
