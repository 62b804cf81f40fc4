//! Scales and biases as they are stored, widened on the way to a register.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::LANES;

/// A format of scales and biases.
pub(super) trait Number: Copy {
    /// The eight numbers from `place` on.
    ///
    /// # Safety
    /// The processor has AVX2 and F16C, and eight numbers can be read at `place`.
    unsafe fn load(place: *const Self) -> __m256;
}

#[allow(clippy::inline_always)]
impl Number for f32 {
    #[inline(always)]
    unsafe fn load(place: *const Self) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(place) }
    }
}

#[allow(clippy::inline_always)]
impl Number for bf16 {
    #[inline(always)]
    unsafe fn load(place: *const Self) -> __m256 {
        // SAFETY: the caller's.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(place.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }
}

#[allow(clippy::inline_always)]
impl Number for f16 {
    #[inline(always)]
    unsafe fn load(place: *const Self) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(place.cast())) }
    }
}

/// Writes `numbers` to `wide`, which has room for a whole register at the end.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) unsafe fn widen<N: Number>(numbers: &[N], wide: &mut [f32]) {
    assert!(wide.len() >= numbers.len().next_multiple_of(LANES));
    for start in windows(numbers.len()) {
        // SAFETY: the register is within `wide`.
        unsafe { _mm256_storeu_ps(wide.as_mut_ptr().add(start), register(numbers, start)) };
    }
}

/// The sum of `numbers·factors`, lane by lane. The factors come in the order of [`windows`].
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) unsafe fn dot<N: Number>(numbers: &[N], factors: &[f32]) -> __m256 {
    // SAFETY: each window has its factors.
    unsafe {
        let mut sum = _mm256_setzero_ps();
        for (start, factors) in windows(numbers.len()).zip(factors.as_chunks::<LANES>().0) {
            sum = _mm256_fmadd_ps(register(numbers, start), _mm256_loadu_ps(factors.as_ptr()), sum);
        }
        sum
    }
}

/// The window of `numbers` at `start`.
///
/// # Safety
/// The processor has AVX2, FMA and F16C, and `start` is one of [`windows`].
#[inline(always)]
#[allow(clippy::inline_always)]
unsafe fn register<N: Number>(numbers: &[N], start: usize) -> __m256 {
    // SAFETY: a window of eight is within the numbers, unless there are fewer.
    unsafe {
        if numbers.len() >= LANES {
            return N::load(numbers.as_ptr().add(start));
        }
        let mut some = [numbers[0]; LANES];
        some[..numbers.len()].copy_from_slice(numbers);
        N::load(some.as_ptr())
    }
}

/// Where eight numbers at a time are read out of `len`: the last eight may overlap those before.
pub(super) fn windows(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(LANES).map(move |start| start.min(len.saturating_sub(LANES)))
}
