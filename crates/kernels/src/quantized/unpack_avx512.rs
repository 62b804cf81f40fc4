//! Unpacking of 4-bit formats with AVX-512: the 16 possible values of a group are computed once and looked up.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::format::{BLOCK, MXFP4_ZERO};
use super::rows::QuantizedRows;
use crate::runtime::isa::Isa;

/// Groups whose scales are read at once.
const GROUPS: usize = 16;

/// As the functions of [`Rows`](crate::gemm::Rows), for whole blocks of columns.
/// Needs [`Isa::Avx512`].
pub(super) fn read<T: Target>(matrix: &QuantizedRows, row: usize, columns: Range<usize>, out: &mut [T]) {
    assert!(Isa::detect() >= Isa::Avx512 && matrix.format.bits() == 4 && out.len() == columns.len());
    let words = &matrix.row_words(row)[columns.start / 8..columns.end / 8];
    let size = matrix.format.group_size();
    // The numbers of mxfp4 are exact even where a bias would overflow.
    let zero = if matrix.format.is_e2m1() { MXFP4_ZERO } else { 0 };
    let levels = matrix.format.levels().map(|level| f32::from(level) - f32::from(zero));
    let (mut scales, mut biases) = ([0.0; GROUPS], [0.0; GROUPS]);
    let mut next = columns.start;
    while next < columns.end {
        let first = next / size;
        let groups = first..columns.end.div_ceil(size).min(first + GROUPS);
        let end = (groups.end * size).min(columns.end);
        let offset = row * matrix.groups();
        matrix.read_groups(
            Isa::Avx512,
            offset + groups.start..offset + groups.end,
            &mut scales[..groups.len()],
            &mut biases[..groups.len()],
        );
        if matrix.format.is_e2m1() {
            biases.fill(0.0);
        }
        let (from, to) = (next - columns.start, end - columns.start);
        let run = Run { words: &words[from / 8..to / 8], start: next % size, size, levels: &levels };
        // SAFETY: the processor has the features, as checked above.
        unsafe { T::look_up(run, &scales, &biases, &mut out[from..to]) };
        next = end;
    }
}

/// Codes of neighbouring groups.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    words: &'a [u32],
    /// Place of the first code in its group.
    start: usize,
    /// Columns of a group.
    size: usize,
    levels: &'a [f32; 16],
}

/// What is written.
pub(super) trait Target {
    /// Writes the weights of a run.
    ///
    /// # Safety
    /// The processor has the instructions of [`Isa::Avx512`].
    unsafe fn look_up(run: Run, scales: &[f32; GROUPS], biases: &[f32; GROUPS], out: &mut [Self])
    where
        Self: Sized;
}

/// Part of a run in one group: its index, its codes, and as many weights.
#[inline(always)]
#[allow(clippy::inline_always)]
fn parts<'a, T>(run: Run<'a>, out: &'a mut [T]) -> impl Iterator<Item = (usize, &'a [u32], &'a mut [T])> {
    let (mut words, mut out, mut group, mut start) = (run.words, out, 0, run.start);
    std::iter::from_fn(move || {
        let len = (run.size - start).min(out.len());
        let (codes, rest) = words.split_at(len / 8);
        let (part, tail) = std::mem::take(&mut out).split_at_mut(len);
        (words, out, start) = (rest, tail, 0);
        group += 1;
        (len > 0).then_some((group - 1, codes, part))
    })
}

impl Target for f32 {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn look_up(run: Run, scales: &[f32; GROUPS], biases: &[f32; GROUPS], out: &mut [f32]) {
        // SAFETY: 16 numbers.
        let levels = unsafe { _mm512_loadu_ps(run.levels.as_ptr()) };
        // A 16-bit word holds four codes: in every quarter it goes to the place of each.
        let low = _mm512_set_epi64(
            0xffff_0706_ffff_0706_u64 as i64,
            0xffff_0706_ffff_0706_u64 as i64,
            0xffff_0504_ffff_0504_u64 as i64,
            0xffff_0504_ffff_0504_u64 as i64,
            0xffff_0302_ffff_0302_u64 as i64,
            0xffff_0302_ffff_0302_u64 as i64,
            0xffff_0100_ffff_0100_u64 as i64,
            0xffff_0100_ffff_0100_u64 as i64,
        );
        let high = _mm512_or_si512(low, _mm512_set1_epi32(0x0808));
        let shift = _mm512_broadcast_i32x4(_mm_set_epi32(12, 8, 4, 0));
        for (group, words, out) in parts(run, out) {
            let (scale, bias) = (_mm512_set1_ps(scales[group]), _mm512_set1_ps(biases[group]));
            let table = _mm512_fmadd_ps(scale, levels, bias);
            for (words, out) in words.chunks_exact(BLOCK / 8).zip(out.chunks_exact_mut(BLOCK)) {
                // SAFETY: chunks of 16 bytes and of 32 numbers.
                unsafe {
                    let codes = _mm512_broadcast_i32x4(_mm_loadu_si128(words.as_ptr().cast()));
                    let first = _mm512_srlv_epi32(_mm512_shuffle_epi8(codes, low), shift);
                    let second = _mm512_srlv_epi32(_mm512_shuffle_epi8(codes, high), shift);
                    _mm512_storeu_ps(out.as_mut_ptr(), _mm512_permutexvar_ps(first, table));
                    _mm512_storeu_ps(out.as_mut_ptr().add(16), _mm512_permutexvar_ps(second, table));
                }
            }
        }
    }
}

impl Target for bf16 {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn look_up(run: Run, scales: &[f32; GROUPS], biases: &[f32; GROUPS], out: &mut [bf16]) {
        // SAFETY: 16 numbers.
        let levels = unsafe { _mm512_loadu_ps(run.levels.as_ptr()) };
        // As above, with two words per quarter.
        let place = _mm512_set_epi64(
            0x0f0e_0f0e_0f0e_0f0e,
            0x0d0c_0d0c_0d0c_0d0c,
            0x0b0a_0b0a_0b0a_0b0a,
            0x0908_0908_0908_0908,
            0x0706_0706_0706_0706,
            0x0504_0504_0504_0504,
            0x0302_0302_0302_0302,
            0x0100_0100_0100_0100,
        );
        let shift = _mm512_set1_epi64(0x000c_0008_0004_0000);
        for (group, words, out) in parts(run, out) {
            let (scale, bias) = (_mm512_set1_ps(scales[group]), _mm512_set1_ps(biases[group]));
            let rounded = round(_mm512_fmadd_ps(scale, levels, bias));
            // Bit 4 of an index comes from the next code: it must make no difference.
            let table = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(rounded), rounded);
            for (words, out) in words.chunks_exact(BLOCK / 8).zip(out.chunks_exact_mut(BLOCK)) {
                // SAFETY: chunks of 16 and of 64 bytes.
                unsafe {
                    let codes = _mm512_broadcast_i32x4(_mm_loadu_si128(words.as_ptr().cast()));
                    let index = _mm512_srlv_epi16(_mm512_shuffle_epi8(codes, place), shift);
                    _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_permutexvar_epi16(index, table));
                }
            }
        }
    }
}

/// To the nearest bf16, ties to even.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
#[inline]
fn round(x: __m512) -> __m256i {
    let bits = _mm512_castps_si512(x);
    let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let up = _mm512_add_epi32(_mm512_add_epi32(bits, last), _mm512_set1_epi32(0x7fff));
    // Adding could carry a NaN into the sign.
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    let kept = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x40_0000));
    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(kept))
}
