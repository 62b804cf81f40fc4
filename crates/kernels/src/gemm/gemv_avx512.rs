//! Products of few rows with AVX-512.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::runtime::isa::Isa;

const LANES: usize = 16;

/// Bytes between a load of weights and the request for those that follow: the processor's own prefetcher does
/// not run far enough ahead.
const PREFETCH_DISTANCE: usize = 4096;

/// A storage of weights that widens as it is loaded.
pub(crate) trait Load: Copy {
    /// The numbers from `data` on whose bit in `mask` is set, and zeros.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL, and these numbers can be read.
    unsafe fn load(data: *const Self, mask: u16) -> __m512;
}

#[allow(clippy::inline_always)]
impl Load for f32 {
    #[inline(always)]
    unsafe fn load(data: *const Self, mask: u16) -> __m512 {
        // SAFETY: the caller vouches for it.
        unsafe { _mm512_maskz_loadu_ps(mask, data) }
    }
}

#[allow(clippy::inline_always)]
impl Load for bf16 {
    #[inline(always)]
    unsafe fn load(data: *const Self, mask: u16) -> __m512 {
        // SAFETY: the caller vouches for it.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, data.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
}

#[allow(clippy::inline_always)]
impl Load for f16 {
    #[inline(always)]
    unsafe fn load(data: *const Self, mask: u16) -> __m512 {
        // SAFETY: the caller vouches for it.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, data.cast())) }
    }
}

/// Writes the products of some rows of weights: `[rows of weight, rows of x]`, at most 8 rows of `x`.
pub(super) fn multiply<T: Load>(x: &[f32], weight: &[T], columns: usize, out: &mut [f32]) {
    let (rows, n) = (x.len() / columns, weight.len() / columns);
    assert!(Isa::detect() >= Isa::Avx512, "AVX-512 is missing");
    assert!(x.len() == rows * columns && out.len() == rows * n, "gemv: lengths");
    let mut done = 0;
    macro_rules! rows_at_once {
        ($($m:literal: $at_once:literal $unroll:literal,)*) => {
            match rows {
                // SAFETY: the instructions and the lengths were just checked.
                $($m => unsafe {
                    while n - done >= $at_once {
                        multiply_rows::<T, $m, $at_once, $unroll>(x, weight, columns, done, out);
                        done += $at_once;
                    }
                    for row in done..n {
                        multiply_rows::<T, $m, 1, $unroll>(x, weight, columns, row, out);
                    }
                })*
                _ => unreachable!("{rows} rows of activations in one pass"),
            }
        };
    }
    // Rows of weights at once, and sums of each product: as many as there are registers.
    rows_at_once!(1: 1 4, 2: 2 2, 3: 4 1, 4: 4 1, 5: 4 1, 6: 4 1, 7: 3 1, 8: 3 1,);
}

/// Products of `M` rows of activations and `R` rows of weights from `row` on, with `U` sums each because
/// additions to one wait for each other.
///
/// # Safety
/// The processor has the instructions; `x` holds `M` rows of `columns` numbers, `weight` `row + R` rows, and
/// `out` has `M` places for each of them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn multiply_rows<T: Load, const M: usize, const R: usize, const U: usize>(
    x: &[f32],
    weight: &[T],
    columns: usize,
    row: usize,
    out: &mut [f32],
) {
    let mut sums = [[[_mm512_setzero_ps(); M]; R]; U];
    let weight = &weight[row * columns..(row + R) * columns];
    for first in (0..columns).step_by(U * LANES) {
        for (u, sums) in sums.iter_mut().enumerate() {
            let column = (first + u * LANES).min(columns);
            let mask = ((1_u32 << (columns - column).min(LANES)) - 1) as u16;
            // SAFETY: all columns read are less than `columns`, or masked.
            unsafe {
                let w: [__m512; R] = std::array::from_fn(|r| {
                    let place = weight.as_ptr().add(r * columns + column);
                    // Also beyond the end: a hint never faults.
                    _mm_prefetch::<_MM_HINT_T1>(place.cast::<i8>().wrapping_add(PREFETCH_DISTANCE));
                    T::load(place, mask)
                });
                #[allow(clippy::needless_range_loop)] // Loops of known length, unrolled.
                for m in 0..M {
                    let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(m * columns + column));
                    for r in 0..R {
                        sums[r][m] = _mm512_fmadd_ps(w[r], x, sums[r][m]);
                    }
                }
            }
        }
    }
    for (r, out) in out[row * M..].chunks_exact_mut(M).take(R).enumerate() {
        for (m, y) in out.iter_mut().enumerate() {
            let sum = sums.iter().map(|sums| sums[r][m]).reduce(|a, b| _mm512_add_ps(a, b));
            *y = sum.map_or(0.0, |sum| _mm512_reduce_add_ps(sum));
        }
    }
}
