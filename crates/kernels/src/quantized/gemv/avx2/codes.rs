//! How codes of each kind meet activations: the inner loops of products of few rows.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;

use super::{LANES, load};

/// How codes meet activations.
pub(super) trait Kernel {
    /// Neighbouring columns in a lane.
    const LANE: usize;

    /// Whether a unit is two groups, rather than a group or a part of one.
    const PAIR: bool = false;

    /// A unit of codes, taken apart.
    type Levels: Copy;

    /// Takes a unit of codes apart.
    ///
    /// # Safety
    /// The processor has AVX2.
    unsafe fn levels(codes: __m256i, table: __m256i) -> Self::Levels;

    /// Dot products of the lanes of a unit with the activations at `x`.
    ///
    /// # Safety
    /// The processor has AVX2, and a unit can be read at `x`.
    unsafe fn dot(levels: Self::Levels, x: *const u32) -> __m256i;
}

/// A byte of codes is two levels, or two codes of which levels are looked up.
pub(super) struct HalfBytes<const LOOK_UP: bool, const PAIR: bool>;

pub(super) type Nibbles = HalfBytes<false, false>;
pub(super) type NibblePairs = HalfBytes<false, true>;
pub(super) type LevelPairs = HalfBytes<true, true>;

#[allow(clippy::inline_always)]
impl<const LOOK_UP: bool, const PAIR: bool> Kernel for HalfBytes<LOOK_UP, PAIR> {
    const LANE: usize = 8;
    const PAIR: bool = PAIR;

    /// Those of even columns, and those of odd ones.
    type Levels = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn levels(codes: __m256i, table: __m256i) -> Self::Levels {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            let (low, high) = nibbles(codes);
            if LOOK_UP {
                (_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high))
            } else {
                (low, high)
            }
        }
    }

    #[inline(always)]
    unsafe fn dot((even, odd): Self::Levels, x: *const u32) -> __m256i {
        // SAFETY: the caller vouches for the instructions and for `x`.
        unsafe {
            let pairs = _mm256_maddubs_epi16(even, load(x));
            let pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(odd, load(x.add(LANES))));
            _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
        }
    }
}

/// A byte is one level, of at most 6 bits: the sum of two products has room in 16 bits.
pub(super) struct Bytes;

#[allow(clippy::inline_always)]
impl Kernel for Bytes {
    const LANE: usize = 4;
    type Levels = __m256i;

    #[inline(always)]
    unsafe fn levels(codes: __m256i, _table: __m256i) -> Self::Levels {
        codes
    }

    #[inline(always)]
    unsafe fn dot(levels: Self::Levels, x: *const u32) -> __m256i {
        // SAFETY: the caller vouches for the instructions and for `x`.
        unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(levels, load(x)), _mm256_set1_epi16(1)) }
    }
}

/// A byte is one level of 8 bits, whose halves are multiplied one by one.
pub(super) struct WholeBytes;

#[allow(clippy::inline_always)]
impl Kernel for WholeBytes {
    const LANE: usize = 4;
    type Levels = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn levels(codes: __m256i, _table: __m256i) -> Self::Levels {
        // SAFETY: the caller vouches for the instructions.
        unsafe { nibbles(codes) }
    }

    #[inline(always)]
    unsafe fn dot((low, high): Self::Levels, x: *const u32) -> __m256i {
        // SAFETY: the caller vouches for the instructions and for `x`.
        unsafe {
            let x = load(x);
            let low = _mm256_madd_epi16(_mm256_maddubs_epi16(low, x), _mm256_set1_epi16(1));
            let high = _mm256_madd_epi16(_mm256_maddubs_epi16(high, x), _mm256_set1_epi16(16));
            _mm256_add_epi32(low, high)
        }
    }
}

/// Lower and upper halves of bytes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
#[allow(clippy::inline_always)]
unsafe fn nibbles(codes: __m256i) -> (__m256i, __m256i) {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let low = _mm256_set1_epi8(15);
        (_mm256_and_si256(codes, low), _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low))
    }
}
