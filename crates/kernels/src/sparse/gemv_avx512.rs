//! Products of few rows with AVX-512: numbers are expanded in registers.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::MAX_ROWS;
use crate::bitmask::expand::has_vbmi2;
use crate::bitmask::expand_avx512::PREFETCH_DISTANCE;
use crate::bitmask::layout::WORD;
use crate::runtime::isa::Isa;
use crate::runtime::scratch::{self, Scratch};

const LANES: usize = 16;

/// Numbers that widen as they are expanded.
pub(super) trait Expand: Copy {
    /// Whether the first register has the columns with even numbers and the second one those between.
    const INTERLEAVED: bool;

    /// Whether the processor has the instructions.
    fn is_supported(isa: Isa) -> bool;

    /// The 32 columns of a word of the mask.
    ///
    /// # Safety
    /// The processor has the instructions, and 64 bytes can be read behind the numbers of the word.
    unsafe fn expand(numbers: *const Self, mask: u32) -> [__m512; 2];
}

#[allow(clippy::inline_always)]
impl Expand for f32 {
    const INTERLEAVED: bool = false;

    fn is_supported(isa: Isa) -> bool {
        isa >= Isa::Avx512 && std::arch::is_x86_feature_detected!("popcnt")
    }

    #[inline(always)]
    unsafe fn expand(numbers: *const Self, mask: u32) -> [__m512; 2] {
        // SAFETY: the caller vouches for it.
        unsafe {
            let (low, high) = (mask as u16, (mask >> 16) as u16);
            let second = numbers.add(low.count_ones() as usize);
            [
                _mm512_maskz_expand_ps(low, _mm512_loadu_ps(numbers)),
                _mm512_maskz_expand_ps(high, _mm512_loadu_ps(second)),
            ]
        }
    }
}

#[allow(clippy::inline_always)]
impl Expand for bf16 {
    const INTERLEAVED: bool = true;

    fn is_supported(isa: Isa) -> bool {
        has_vbmi2(isa)
    }

    #[inline(always)]
    unsafe fn expand(numbers: *const Self, mask: u32) -> [__m512; 2] {
        // SAFETY: the caller vouches for it.
        unsafe {
            let numbers = expand_halves(numbers.cast(), mask);
            let odd = _mm512_and_si512(numbers, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(numbers)), _mm512_castsi512_ps(odd)]
        }
    }
}

#[allow(clippy::inline_always)]
impl Expand for f16 {
    const INTERLEAVED: bool = false;

    fn is_supported(isa: Isa) -> bool {
        has_vbmi2(isa)
    }

    #[inline(always)]
    unsafe fn expand(numbers: *const Self, mask: u32) -> [__m512; 2] {
        // SAFETY: the caller vouches for it.
        unsafe {
            let numbers = expand_halves(numbers.cast(), mask);
            [
                _mm512_cvtph_ps(_mm512_castsi512_si256(numbers)),
                _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(numbers)),
            ]
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
#[inline]
unsafe fn expand_halves(numbers: *const u16, mask: u32) -> __m512i {
    // SAFETY: the caller vouches for it.
    unsafe { _mm512_maskz_expand_epi16(mask, _mm512_loadu_si512(numbers.cast())) }
}

/// Activations in the order of the registers, rows padded with zeros to whole words of the mask.
pub(super) struct Prepared {
    x: Scratch<f32>,
    rows: usize,
    needs_vbmi2: bool,
}

impl Prepared {
    pub(super) fn of<T: Expand>(x: &[f32], columns: usize) -> Self {
        let (rows, stride) = (x.len() / columns, columns.next_multiple_of(WORD));
        assert!(rows <= MAX_ROWS);
        let mut ordered = scratch::take::<f32>(rows * stride);
        ordered.fill(0.0);
        for (ordered, x) in ordered.chunks_exact_mut(stride).zip(x.chunks_exact(columns)) {
            if !T::INTERLEAVED {
                ordered[..columns].copy_from_slice(x);
                continue;
            }
            for (ordered, x) in ordered.chunks_exact_mut(WORD).zip(x.chunks(WORD)) {
                for (i, &x) in x.iter().enumerate() {
                    ordered[i % 2 * LANES + i / 2] = x;
                }
            }
        }
        Self { x: ordered, rows, needs_vbmi2: size_of::<T>() == 2 }
    }

    /// Writes the products of a row of weights with each row of activations.
    ///
    /// # Safety
    /// This was made for `T`, whose instructions the processor has; behind as many `numbers` as `mask` has places, there
    /// are 64 bytes more.
    pub(super) unsafe fn multiply<T: Expand>(&self, numbers: &[T], mask: &[u32], out: &mut [f32]) {
        assert!(out.len() == self.rows && self.x.len() == self.rows * mask.len() * WORD, "sparse: lengths");
        macro_rules! for_rows {
            ($($rows:literal)*) => {
                match self.rows {
                    // SAFETY: the caller's, and the lengths were just compared.
                    $($rows => unsafe {
                        if self.needs_vbmi2 {
                            vbmi2::<T, $rows>(&self.x, numbers.as_ptr(), mask, out);
                        } else {
                            avx512::<T, $rows>(&self.x, numbers.as_ptr(), mask, out);
                        }
                    },)*
                    rows => unreachable!("{rows} rows of activations in one pass"),
                }
            };
        }
        const { assert!(MAX_ROWS == 8) }
        for_rows!(1 2 3 4 5 6 7 8);
    }
}

/// # Safety
/// The processor has the instructions of `T`, and the lengths fit.
#[inline(always)]
#[allow(clippy::inline_always)]
unsafe fn dot<T: Expand, const M: usize>(x: &[f32], mut numbers: *const T, mask: &[u32], out: &mut [f32]) {
    let stride = mask.len() * WORD;
    let mut x = x.as_ptr();
    // SAFETY: the caller's.
    unsafe {
        // Two sums for each half of a word, because additions to one wait for each other.
        // No closure: it would not be compiled for these instructions.
        macro_rules! add {
            ($sums:expr, $word:expr) => {
                // Also beyond the end: a hint never faults.
                _mm_prefetch::<_MM_HINT_T1>(numbers.cast::<i8>().wrapping_add(PREFETCH_DISTANCE));
                let [first, second] = T::expand(numbers, $word);
                for (m, [a, b]) in $sums.iter_mut().enumerate() {
                    let x = x.add(m * stride);
                    *a = _mm512_fmadd_ps(first, _mm512_loadu_ps(x), *a);
                    *b = _mm512_fmadd_ps(second, _mm512_loadu_ps(x.add(LANES)), *b);
                }
                numbers = numbers.add($word.count_ones() as usize);
                x = x.add(WORD);
            };
        }
        let [mut even_sums, mut odd_sums] = [[[_mm512_setzero_ps(); 2]; M]; 2];
        let (pairs, last) = mask.as_chunks::<2>();
        for &[even, odd] in pairs {
            add!(even_sums, even);
            add!(odd_sums, odd);
        }
        for &word in last {
            add!(even_sums, word);
        }
        for (m, out) in out.iter_mut().enumerate() {
            let [[a, b], [c, d]] = [even_sums[m], odd_sums[m]];
            *out = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
        }
    }
}

macro_rules! with_features {
    ($($name:ident: $features:literal;)*) => {$(
        #[target_feature(enable = $features)]
        unsafe fn $name<T: Expand, const M: usize>(x: &[f32], numbers: *const T, mask: &[u32], out: &mut [f32]) {
            // SAFETY: the caller vouches for the instructions and lengths.
            unsafe { dot::<T, M>(x, numbers, mask, out) }
        }
    )*};
}

with_features! {
    avx512: "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt";
    vbmi2: "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt,avx512vbmi2";
}
