//! Turns blocks of 32-bit words, the step of packing that does not vectorise by itself.

use super::super::isa::Isa;

/// `panel[s][i] = block[i][s]` for `width` lines of `block`, each `depth` words long, of which the first
/// `panel.len() / width` are taken.
pub(in crate::kernels) fn transpose(isa: Isa, block: &[u32], depth: usize, width: usize, panel: &mut [u32]) {
    assert!(block.len() >= width * depth && panel.len() <= width * depth);
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        assert!(depth.is_multiple_of(16), "lines are read 16 words at a time");
        for first in (0..width).step_by(16) {
            // SAFETY: the level of `isa` is the processor's; lines and panel are as long as just checked.
            unsafe { x86::lanes(&block[first * depth..], depth, first, width, panel) };
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
mod x86 {
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
