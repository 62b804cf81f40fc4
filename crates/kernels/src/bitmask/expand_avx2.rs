//! Expansion with AVX2: a table tells for each byte of the mask where its numbers go.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;

use super::fill::Fill;

/// Which of the next numbers goes to each of 8 places; the highest bit is set where none does.
static PLACES: [[u8; 8]; 256] = places();

/// The same for the bytes of numbers of 16 bits.
static HALVES: [[u8; 16]; 256] = halves_of(&places());

const fn places() -> [[u8; 8]; 256] {
    let mut table = [[0x80; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut place, mut next) = (0, 0);
        while place < 8 {
            if mask >> place & 1 == 1 {
                table[mask][place] = next;
                next += 1;
            }
            place += 1;
        }
        mask += 1;
    }
    table
}

const fn halves_of(places: &[[u8; 8]; 256]) -> [[u8; 16]; 256] {
    let mut table = [[0x80; 16]; 256];
    let mut mask = 0;
    while mask < 256 {
        let mut place = 0;
        while place < 8 {
            let number = places[mask][place];
            if number < 8 {
                table[mask][2 * place] = 2 * number;
                table[mask][2 * place + 1] = 2 * number + 1;
            }
            place += 1;
        }
        mask += 1;
    }
    table
}

/// Numbers of 16 bits.
///
/// # Safety
/// The processor has AVX2; 16 bytes can be read behind the numbers of `mask`, and `to` has 32 places for each of its words.
#[target_feature(enable = "avx2,popcnt")]
pub(crate) unsafe fn halves(mut from: *const u16, mask: &[u32], mut to: *mut u16) {
    for byte in mask.iter().flat_map(|word| word.to_le_bytes()) {
        // SAFETY: the caller's.
        unsafe {
            let table = _mm_loadu_si128(HALVES[usize::from(byte)].as_ptr().cast());
            _mm_storeu_si128(to.cast(), _mm_shuffle_epi8(_mm_loadu_si128(from.cast()), table));
            from = from.add(byte.count_ones() as usize);
            to = to.add(8);
        }
    }
}

/// Numbers of 32 bits.
///
/// # Safety
/// As [`halves`], with 32 bytes.
#[target_feature(enable = "avx2,popcnt")]
pub(crate) unsafe fn words(mut from: *const u32, mask: &[u32], mut to: *mut u32) {
    for byte in mask.iter().flat_map(|word| word.to_le_bytes()) {
        // SAFETY: the caller's.
        unsafe {
            let table = _mm256_cvtepu8_epi32(_mm_loadl_epi64(PLACES[usize::from(byte)].as_ptr().cast()));
            let is_stored = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), table);
            let numbers = _mm256_permutevar8x32_epi32(_mm256_loadu_si256(from.cast()), table);
            _mm256_storeu_si256(to.cast(), _mm256_and_si256(numbers, is_stored));
            from = from.add(byte.count_ones() as usize);
            to = to.add(8);
        }
    }
}

/// Codes.
///
/// # Safety
/// As [`halves`], with 8 bytes.
#[target_feature(enable = "avx2,popcnt")]
pub(crate) unsafe fn bytes(mut from: *const u8, mask: &[u32], fill: Fill, mut to: *mut u8) {
    for (w, word) in mask.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            let fill = _mm_set1_epi8(fill.of(w).cast_signed());
            for byte in word.to_le_bytes() {
                let table = _mm_loadl_epi64(PLACES[usize::from(byte)].as_ptr().cast());
                let codes = _mm_shuffle_epi8(_mm_loadl_epi64(from.cast()), table);
                _mm_storel_epi64(to.cast(), _mm_blendv_epi8(codes, fill, table));
                from = from.add(byte.count_ones() as usize);
                to = to.add(8);
            }
        }
    }
}
