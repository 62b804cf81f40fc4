//! Expansion with AVX-512, which has instructions for it.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;

use super::fill::Fill;

/// Bytes between a load of numbers and the request for those that follow, as for dense weights.
pub(crate) const PREFETCH_DISTANCE: usize = 4096;

/// Numbers of 16 bits.
///
/// # Safety
/// The processor has AVX-512 VBMI2; 64 bytes can be read behind the numbers of `mask`, and `to` has 32 places for each of
/// its words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
pub(crate) unsafe fn halves(mut from: *const u16, mask: &[u32], mut to: *mut u16) {
    for &word in mask {
        // SAFETY: the caller's.
        unsafe {
            let numbers = _mm512_maskz_expand_epi16(word, _mm512_loadu_si512(from.cast()));
            _mm512_storeu_si512(to.cast(), numbers);
            from = from.add(word.count_ones() as usize);
            to = to.add(32);
        }
    }
}

/// Numbers of 32 bits.
///
/// # Safety
/// As [`halves`]; AVX-512 F is enough.
#[target_feature(enable = "avx512f,popcnt")]
pub(crate) unsafe fn words(mut from: *const u32, mask: &[u32], mut to: *mut u32) {
    for half in mask.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]) {
        // SAFETY: the caller's.
        unsafe {
            let numbers = _mm512_maskz_expand_epi32(half, _mm512_loadu_si512(from.cast()));
            _mm512_storeu_si512(to.cast(), numbers);
            from = from.add(half.count_ones() as usize);
            to = to.add(16);
        }
    }
}

/// Codes.
///
/// # Safety
/// As [`halves`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
pub(crate) unsafe fn bytes(mut from: *const u8, mask: &[u32], fill: Fill, mut to: *mut u8) {
    for (w, &word) in mask.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            let fill = _mm256_set1_epi8(fill.of(w).cast_signed());
            let codes = _mm256_mask_expand_epi8(fill, word, _mm256_loadu_si256(from.cast()));
            _mm256_storeu_si256(to.cast(), codes);
            // Also beyond the end: a hint never faults.
            _mm_prefetch::<_MM_HINT_T1>(from.cast::<i8>().wrapping_add(PREFETCH_DISTANCE));
            from = from.add(word.count_ones() as usize);
            to = to.add(32);
        }
    }
}
