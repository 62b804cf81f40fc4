//! Transposition of blocks of 32-bit words, the part of packing that compilers do not vectorize.

use crate::runtime::isa::Isa;

/// `panel[s][i] = block[i][s]` for `width` lines of `block`, each `depth` words long, of which the first
/// `panel.len() / width` are taken.
pub(crate) fn transpose(isa: Isa, block: &[u32], depth: usize, width: usize, panel: &mut [u32]) {
    assert!(block.len() >= width * depth && panel.len() <= width * depth);
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        assert!(depth.is_multiple_of(16), "lines are read 16 words at a time");
        for first in (0..width).step_by(16) {
            // SAFETY: the level of `isa` is the processor's; lines and panel are as long as just checked.
            unsafe { avx512::lanes(&block[first * depth..], depth, first, width, panel) };
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2 {
        assert!(depth.is_multiple_of(8), "lines are read 8 words at a time");
        for first in (0..width).step_by(8) {
            // SAFETY: as above.
            unsafe { avx2::lanes(&block[first * depth..], depth, first, width, panel) };
        }
        return;
    }
    let _ = isa;
    for (s, words) in panel.chunks_exact_mut(width).enumerate() {
        for (i, word) in words.iter_mut().enumerate() {
            *word = block[i * depth + s];
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::wildcard_imports, reason = "names of instructions")]
mod avx512 {
    use std::arch::x86_64::*;

    /// Lanes `first` to `first + 15` of the panel, or to its last, from the lines at the start of `block`.
    ///
    /// # Safety
    /// `block` holds as many lines of `depth` words, a multiple of 16; `panel` at most `depth` steps.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn lanes(block: &[u32], depth: usize, first: usize, width: usize, panel: &mut [u32]) {
        let count = 16.min(width - first);
        let steps = panel.len() / width;
        let mask = u16::MAX >> (16 - count);
        // What is stored beyond the lanes belongs to the next step, which follows: stores with a mask are slow.
        let whole = count == 16 || first == 0;
        let mut rows = [_mm512_setzero_si512(); 16];
        for start in (0..steps).step_by(16) {
            for (i, row) in rows.iter_mut().enumerate().take(count) {
                // SAFETY: `start` is at most `depth - 16`.
                *row = unsafe { _mm512_loadu_si512(block.as_ptr().add(i * depth + start).cast()) };
            }
            for (s, column) in columns(rows).into_iter().enumerate().take(steps - start) {
                let place = (start + s) * width + first;
                // SAFETY: step `start + s` is within the panel, and the mask keeps to its lanes.
                unsafe {
                    let at = panel.as_mut_ptr().add(place);
                    if whole && place + 16 <= panel.len() {
                        _mm512_storeu_si512(at.cast(), column);
                    } else {
                        _mm512_mask_storeu_epi32(at.cast(), mask, column);
                    }
                }
            }
        }
    }

    /// The transpose of 16 × 16 words: pairs, then quarters, then halves of the registers change places.
    #[target_feature(enable = "avx512f")]
    fn columns(mut r: [__m512i; 16]) -> [__m512i; 16] {
        let mut t = r;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        for i in 0..4 {
            r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        for j in 0..4 {
            t[j] = _mm512_shuffle_i32x4::<0x88>(r[j], r[4 + j]);
            t[4 + j] = _mm512_shuffle_i32x4::<0x88>(r[8 + j], r[12 + j]);
            t[8 + j] = _mm512_shuffle_i32x4::<0xdd>(r[j], r[4 + j]);
            t[12 + j] = _mm512_shuffle_i32x4::<0xdd>(r[8 + j], r[12 + j]);
        }
        for j in 0..4 {
            r[j] = _mm512_shuffle_i32x4::<0x88>(t[j], t[4 + j]);
            r[4 + j] = _mm512_shuffle_i32x4::<0x88>(t[8 + j], t[12 + j]);
            r[8 + j] = _mm512_shuffle_i32x4::<0xdd>(t[j], t[4 + j]);
            r[12 + j] = _mm512_shuffle_i32x4::<0xdd>(t[8 + j], t[12 + j]);
        }
        r
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::wildcard_imports, reason = "names of instructions")]
mod avx2 {
    use std::arch::x86_64::*;

    /// Lanes `first` to `first + 7` of the panel, or to its last, from the lines at the start of `block`.
    ///
    /// # Safety
    /// `block` holds as many lines of `depth` words, a multiple of 8; `panel` at most `depth` steps.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn lanes(block: &[u32], depth: usize, first: usize, width: usize, panel: &mut [u32]) {
        let count = 8.min(width - first);
        let steps = panel.len() / width;
        // What is stored beyond the lanes belongs to the next step, which follows: stores with a mask are slow.
        let whole = count == 8 || first == 0;
        let mut rows = [_mm256_setzero_ps(); 8];
        for start in (0..steps).step_by(8) {
            for (i, row) in rows.iter_mut().enumerate().take(count) {
                // SAFETY: `start` is at most `depth - 8`.
                *row = unsafe { _mm256_loadu_ps(block.as_ptr().add(i * depth + start).cast()) };
            }
            for (s, column) in columns(rows).into_iter().enumerate().take(steps - start) {
                let place = (start + s) * width + first;
                if whole && place + 8 <= panel.len() {
                    // SAFETY: eight words of the panel, as just checked.
                    unsafe { _mm256_storeu_ps(panel.as_mut_ptr().add(place).cast(), column) };
                } else {
                    let mut words = [0_u32; 8];
                    // SAFETY: eight words.
                    unsafe { _mm256_storeu_ps(words.as_mut_ptr().cast(), column) };
                    panel[place..place + count].copy_from_slice(&words[..count]);
                }
            }
        }
    }

    /// The transpose of 8 × 8 words: pairs, then quarters, then halves of the registers change places.
    #[target_feature(enable = "avx2")]
    fn columns(r: [__m256; 8]) -> [__m256; 8] {
        let mut pairs = r;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut fours = pairs;
        for i in 0..2 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|j| pairs[4 * i + j]);
            fours[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
            fours[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
            fours[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
            fours[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
        }
        let mut columns = fours;
        for j in 0..4 {
            columns[j] = _mm256_permute2f128_ps::<0x20>(fours[j], fours[4 + j]);
            columns[4 + j] = _mm256_permute2f128_ps::<0x31>(fours[j], fours[4 + j]);
        }
        columns
    }
}
