//! The product, with its special cases.

use crate::gemm::{Dense, Lanes, Packed, Precision, gemv, multiply};
use crate::runtime::disjoint::Disjoint;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::pool::parallel_ranges;
use crate::runtime::scratch;

/// Multiply-adds below which copying into panels and waking other threads costs more than it saves.
const SMALL: usize = 1 << 15;
/// Rows of the result that are cheaper to compute one by one than in a block of the kernel of panels.
const FEW_ROWS: usize = 2;
/// Columns of a row computed at once, at least: shorter runs through memory are slow.
const RUN: usize = 256;
/// Rows of the result for which weights are best read where they are.
const DIRECT_ROWS: usize = 8;

/// A row-major matrix as it lies in memory; `transposed` if the product takes its transpose.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub data: &'a [f32],
    pub shape: (usize, usize),
    pub stride: usize,
    pub transposed: bool,
}

impl<'a> Operand<'a> {
    fn dense(&self) -> Dense<'a, f32> {
        Dense::strided(self.data, self.shape, self.stride)
    }

    fn is_contiguous(&self) -> bool {
        self.data.len() == self.shape.0 * self.shape.1
    }
}

/// The result, row-major.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    pub data: Disjoint<'a, f32>,
    pub stride: usize,
}

impl<'a> Output<'a> {
    /// # Safety
    /// No two parts in use at once may overlap.
    unsafe fn part(&self, row: usize, columns: std::ops::Range<usize>) -> &'a mut [f32] {
        let start = row * self.stride;
        // SAFETY: the caller vouches for it.
        unsafe { self.data.part(start + columns.start..start + columns.end) }
    }
}

/// See [`cblas_sgemm`](super::cblas_sgemm); sizes are `m, n, k`.
pub(super) fn sgemm(
    isa: Isa,
    [m, n, k]: [usize; 3],
    alpha: f32,
    a: Operand,
    b: Operand,
    beta: f32,
    c: Output,
) {
    if m <= DIRECT_ROWS && k > 0 && !a.transposed && a.is_contiguous() && b.transposed && b.is_contiguous() {
        let mut products = scratch::take::<f32>(m * n);
        gemv::dense(isa, a.data, b.data, k, &mut products);
        for (i, products) in products.chunks_exact(n).enumerate() {
            // SAFETY: the only part in use.
            combine(isa, alpha, products, beta, unsafe { c.part(i, 0..n) });
        }
    } else if m <= FEW_ROWS || m * n * k <= SMALL || k == 0 {
        parallel_ranges(n, (SMALL / (m * k).max(1)).max(RUN), |columns| {
            for i in 0..m {
                // SAFETY: tasks have different columns.
                row(isa, [i, k], alpha, a, b, columns.start, beta, unsafe { c.part(i, columns.clone()) });
            }
        });
    } else {
        let (left, right) = (a.dense(), b.dense());
        let left = if a.transposed { Lanes::columns(&left) } else { Lanes::rows(&left) };
        let right = if b.transposed { Lanes::rows(&right) } else { Lanes::columns(&right) };
        let left = Packed::new(isa, Precision::F32, left);
        multiply(isa, &[(&left, right)], |mut tile| {
            for i in 0..tile.rows {
                let columns = tile.column..tile.column + tile.columns;
                // SAFETY: tiles of one product do not overlap.
                let place = unsafe { c.part(tile.row + i, columns) };
                combine(isa, alpha, tile.row_mut(i), beta, place);
            }
        });
    }
}

vectorized! {
    fn combine(alpha: f32, products: &[f32], beta: f32, c: &mut [f32]) {
        if beta == 0.0 {
            c.iter_mut().zip(products).for_each(|(c, x)| *c = alpha * x);
        } else {
            c.iter_mut().zip(products).for_each(|(c, x)| *c = alpha * x + beta * *c);
        }
    }

    /// Columns `first`… of row `i` of the result.
    fn row(place: [usize; 2], alpha: f32, a: Operand, b: Operand, first: usize, beta: f32, c: &mut [f32]) {
        let [i, k] = place;
        if beta == 0.0 {
            c.fill(0.0);
        } else {
            for c in c.iter_mut() {
 *c *= beta;
 }
        }
        let (start, step) = if a.transposed { (i, a.stride) } else { (i * a.stride, 1) };
        if b.transposed {
            for (j, c) in c.iter_mut().enumerate() {
                let line = &b.data[(first + j) * b.stride..][..k];
                let mut sums = [0.0; 16];
                let (blocks, rest) = line.as_chunks::<16>();
                for (s, b) in blocks.iter().enumerate() {
                    for (l, (sum, b)) in sums.iter_mut().zip(b).enumerate() {
                        *sum += a.data[start + (s * 16 + l) * step] * b;
                    }
                }
                for (l, (sum, b)) in sums.iter_mut().zip(rest).enumerate() {
                    *sum += a.data[start + (blocks.len() * 16 + l) * step] * b;
                }
                *c += alpha * sums.iter().sum::<f32>();
            }
        } else {
            for s in 0..k {
                let x = alpha * a.data[start + s * step];
                let line = &b.data[s * b.stride + first..][..c.len()];
                c.iter_mut().zip(line).for_each(|(c, b)| *c += x * b);
            }
        }
    }
}
