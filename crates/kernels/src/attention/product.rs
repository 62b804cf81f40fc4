//! Products of small blocks in cache: `C = A·B` or `C += A·B` in f32.
//!
//! `A` is read one number at a time, so it may be row- or column-major; `B` and `C` are read in
//! vectors along their rows. All of attention is made of such products, without one transposed copy.

use super::vector::{Load, Portable, Vector};
use crate::runtime::isa::Isa;

/// Columns of `B` and `C` come in multiples of this.
pub(super) const LANES: usize = 16;

/// Rows of `C` computed at once: with four vectors of columns, 24 of the 32 registers of AVX-512.
const ROWS: usize = 6;

/// `A`: element `(i, p)` is at `i · row + p · column`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub column: usize,
}

/// `B`: element `(p, j)` is at `p · row + j`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a, B> {
    pub data: &'a [B],
    pub row: usize,
}

/// `C`: element `(i, j)` is at `i · row + j`.
pub(super) struct Result<'a> {
    pub data: &'a mut [f32],
    pub row: usize,
    /// Whether the product is added to what is there.
    pub add: bool,
}

/// The product of `m × k` by `k × n`.
///
/// # Panics
/// When `n` is no multiple of [`LANES`] or an operand is too short.
pub(super) fn product<B: Load>(isa: Isa, [m, n, k]: [usize; 3], a: Left, b: Right<B>, c: Result) {
    if m == 0 || n == 0 {
        return;
    }
    let Result { data, row, add } = c;
    assert!(n.is_multiple_of(LANES), "attention: {n} columns");
    assert!(data.len() >= (m - 1) * row + n, "attention: size of C");
    if k > 0 {
        assert!(a.data.len() > (m - 1) * a.row + (k - 1) * a.column, "attention: size of A");
        assert!(b.data.len() >= (k - 1) * b.row + n, "attention: size of B");
    }
    let c = Block { c: data.as_mut_ptr(), stride: row, add, k, a, b };
    // SAFETY: the operands hold all elements, as just checked, and an `Isa` exists only where the
    // processor has it.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            level if level >= Isa::Avx512 => avx512(m, n, c),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(m, n, c),
            _ => blocks::<Portable, B>(m, n, c),
        }
    }
}

#[derive(Clone, Copy)]
struct Block<'a, B> {
    c: *mut f32,
    stride: usize,
    add: bool,
    k: usize,
    a: Left<'a>,
    b: Right<'a, B>,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<B: Load>(m: usize, n: usize, block: Block<B>) {
    // SAFETY: the caller's.
    unsafe { blocks::<std::arch::x86_64::__m512, B>(m, n, block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<B: Load>(m: usize, n: usize, block: Block<B>) {
    // SAFETY: the caller's.
    unsafe { blocks::<std::arch::x86_64::__m256, B>(m, n, block) }
}

/// # Safety
/// The operands of `block` hold an `m × n` result, and the processor has the instructions of `V`.
#[inline(always)]
#[allow(clippy::inline_always)]
unsafe fn blocks<V: Vector, B: Load>(m: usize, n: usize, block: Block<B>) {
    for j in (0..n).step_by(V::GROUP * V::LEN) {
        // SAFETY: the caller's.
        unsafe {
            match (n - j) / V::LEN {
                1 => rows::<V, B, 1>(m, j, block),
                2 => rows::<V, B, 2>(m, j, block),
                3 => rows::<V, B, 3>(m, j, block),
                // No instruction set with fewer registers has groups of four.
                _ if V::GROUP == 2 => rows::<V, B, 2>(m, j, block),
                _ => rows::<V, B, 4>(m, j, block),
            }
        }
    }
}

/// `N` vectors of columns from column `j` on.
#[inline(always)]
#[allow(clippy::inline_always)]
unsafe fn rows<V: Vector, B: Load, const N: usize>(m: usize, j: usize, block: Block<B>) {
    for i in (0..m).step_by(ROWS) {
        // SAFETY: the caller's.
        unsafe {
            match m - i {
                1 => tile::<V, B, 1, N>(i, j, block),
                2 => tile::<V, B, 2, N>(i, j, block),
                3 => tile::<V, B, 3, N>(i, j, block),
                4 => tile::<V, B, 4, N>(i, j, block),
                5 => tile::<V, B, 5, N>(i, j, block),
                _ => tile::<V, B, ROWS, N>(i, j, block),
            }
        }
    }
}

/// `R` rows and `N` vectors of columns of the result, in registers over all of `k`.
#[inline(always)]
#[allow(clippy::inline_always)]
unsafe fn tile<V: Vector, B: Load, const R: usize, const N: usize>(i: usize, j: usize, block: Block<B>) {
    let Block { c, stride, add, k, a, b } = block;
    // SAFETY: rows `i..i + R` and columns `j..j + N · V::LEN` are within the result.
    unsafe {
        let c = c.add(i * stride + j);
        let mut sums = [[V::zero(); N]; R];
        if add {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(c.add(r * stride + v * V::LEN));
                }
            }
        }
        let (mut left, mut right) =
            (a.data.as_ptr().wrapping_add(i * a.row), b.data.as_ptr().wrapping_add(j));
        for _ in 0..k {
            let mut columns = [V::zero(); N];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = B::load(right.add(v * V::LEN));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*left.add(r * a.row));
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = V::multiply_add(x, column, *sum);
                }
            }
            left = left.wrapping_add(a.column);
            right = right.wrapping_add(b.row);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                V::store(sum, c.add(r * stride + v * V::LEN));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_sum_of_products() {
        let number = |i: usize| ((i * 37 + 11) % 29) as f32 / 8.0 - 1.5;
        for (m, n, k) in [(1, 16, 1), (6, 64, 5), (7, 48, 0), (13, 80, 9), (4, 128, 3), (0, 16, 2), (5, 0, 2)]
        {
            for transposed in [false, true] {
                let a: Vec<f32> = (0..m * k).map(number).collect();
                let b: Vec<f32> = (0..k * (n + 1)).map(number).collect();
                let (row, column) = if transposed { (1, m) } else { (k, 1) };
                let expected = |i: usize, j: usize| {
                    1.0 + (0..k).map(|p| a[i * row + p * column] * b[p * (n + 1) + j]).sum::<f32>()
                };
                for isa in Isa::available() {
                    let mut c = vec![1.0; m * n];
                    let left = Left { data: &a, row, column };
                    let right = Right { data: &b, row: n + 1 };
                    product(isa, [m, n, k], left, right, Result { data: &mut c, row: n, add: true });
                    for (at, &c) in c.iter().enumerate() {
                        let expected = expected(at / n, at % n);
                        assert!(
                            (c - expected).abs() < 1e-4,
                            "{m} {n} {k} {transposed} {isa:?}: {c} {expected}"
                        );
                    }
                }
            }
        }
    }
}
