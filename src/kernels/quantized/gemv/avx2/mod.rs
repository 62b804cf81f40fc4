//! Products of few rows in 8-bit integers with AVX2.
//!
//! As [with AVX-512](super::avx512), in units of 32 bytes: lane i of a register holds neighbouring
//! columns, 8 of them for codes of 4 bits and 4 for bytes, and the activations are brought into that order.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::super::isa::Isa;
use super::super::super::scratch::Scratch;
use super::super::activations::{Int8, Ordered};
use super::super::format::{Mode, QuantizedRows};
use super::super::groups::{Groups, group_size};
use super::{AHEAD, Block, MOST_ROWS, each_block};

/// Words of a register.
const LANES: usize = 8;
/// Bytes of a register.
const BYTES: usize = 32;

/// Activations in the order of the codes.
pub(super) struct Prepared {
    isa: Isa,
    kind: Kind,
    x: Ordered,
    /// Sums of groups: `[rows, groups]`
    sums: Scratch<f32>,
    levels: [u8; 16],
}

/// What a byte of codes is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Two levels.
    Nibbles,
    /// Two codes of which levels are looked up.
    Levels,
    /// One level, of at most 6 bits: the sum of two products has room in 16 bits.
    Bytes,
    /// One level of 8 bits.
    WholeBytes,
}

impl Prepared {
    pub(super) fn of(isa: Isa, x: &[f32], weights: &QuantizedRows) -> Self {
        let kind = match (weights.format.mode(), weights.format.bits()) {
            (Mode::Mxfp4, _) => Kind::Levels,
            (Mode::Affine, 4) => Kind::Nibbles,
            (Mode::Affine, 8) => Kind::WholeBytes,
            (Mode::Affine, _) => Kind::Bytes,
        };
        let lane = if matches!(kind, Kind::Nibbles | Kind::Levels) { 8 } else { 4 };
        let group = group_size(weights);
        let x = Int8::of(isa, x, group);
        let ordered = Ordered::of(&x, weights.columns, group, (lane, LANES));
        Self { isa, kind, x: ordered, sums: x.sums, levels: weights.format.levels() }
    }

    /// Writes the products of the rows `range` of the weights, `[range, rows of x]`.
    pub(super) fn multiply(
        &self,
        weights: &QuantizedRows,
        range: Range<usize>,
        groups: &Groups,
        out: &mut [f32],
    ) {
        each_block(self.isa, weights, range, groups, out, |block, out| self.multiply_block(block, out));
    }

    fn multiply_block(&self, block: Block, out: &mut [f32]) {
        macro_rules! for_rows {
            ($($rows:literal)*) => {
                match self.x.rows {
                    $(
                        // SAFETY: this is built only for processors with AVX2 and FMA.
                        $rows => unsafe { match self.kind {
                            Kind::Nibbles => multiply::<Nibbles<false>, $rows>(self, block, out),
                            Kind::Levels => multiply::<Nibbles<true>, $rows>(self, block, out),
                            Kind::Bytes => multiply::<Bytes, $rows>(self, block, out),
                            Kind::WholeBytes => multiply::<WholeBytes, $rows>(self, block, out),
                        } },
                    )*
                    rows => unreachable!("{rows} rows of activations in one pass"),
                }
            };
        }
        const { assert!(MOST_ROWS == 8) }
        for_rows!(1 2 3 4 5 6 7 8);
    }
}

/// How codes meet activations.
trait Kernel {
    /// Neighbouring columns in a lane.
    const LANE: usize;

    /// Dot products of a unit of codes with the unit at `x` and those of the next `M - 1` rows, each `stride` words on.
    ///
    /// # Safety
    /// The processor has AVX2, and a unit can be read at each of these places.
    unsafe fn dot<const M: usize>(
        codes: __m256i,
        table: __m256i,
        x: *const u32,
        stride: usize,
    ) -> [__m256i; M];
}

struct Nibbles<const LOOK_UP: bool>;

#[allow(clippy::inline_always)]
impl<const LOOK_UP: bool> Kernel for Nibbles<LOOK_UP> {
    const LANE: usize = 8;

    #[inline(always)]
    unsafe fn dot<const M: usize>(
        codes: __m256i,
        table: __m256i,
        x: *const u32,
        stride: usize,
    ) -> [__m256i; M] {
        // SAFETY: the caller vouches for the instructions and for `x`.
        unsafe {
            let (nibble, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
            let mut even = _mm256_and_si256(codes, nibble);
            let mut odd = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
            if LOOK_UP {
                (even, odd) = (_mm256_shuffle_epi8(table, even), _mm256_shuffle_epi8(table, odd));
            }
            std::array::from_fn(|m| {
                let x = x.add(m * stride);
                let pairs = _mm256_maddubs_epi16(even, load(x));
                let pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(odd, load(x.add(LANES))));
                _mm256_madd_epi16(pairs, ones)
            })
        }
    }
}

struct Bytes;

#[allow(clippy::inline_always)]
impl Kernel for Bytes {
    const LANE: usize = 4;

    #[inline(always)]
    unsafe fn dot<const M: usize>(
        codes: __m256i,
        _table: __m256i,
        x: *const u32,
        stride: usize,
    ) -> [__m256i; M] {
        // SAFETY: the caller vouches for the instructions and for `x`.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            std::array::from_fn(|m| {
                _mm256_madd_epi16(_mm256_maddubs_epi16(codes, load(x.add(m * stride))), ones)
            })
        }
    }
}

struct WholeBytes;

#[allow(clippy::inline_always)]
impl Kernel for WholeBytes {
    const LANE: usize = 4;

    #[inline(always)]
    unsafe fn dot<const M: usize>(
        codes: __m256i,
        _table: __m256i,
        x: *const u32,
        stride: usize,
    ) -> [__m256i; M] {
        // SAFETY: the caller vouches for the instructions and for `x`.
        unsafe {
            let nibble = _mm256_set1_epi8(15);
            let low = _mm256_and_si256(codes, nibble);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
            std::array::from_fn(|m| {
                let x = load(x.add(m * stride));
                let low = _mm256_madd_epi16(_mm256_maddubs_epi16(low, x), _mm256_set1_epi16(1));
                let high = _mm256_madd_epi16(_mm256_maddubs_epi16(high, x), _mm256_set1_epi16(16));
                _mm256_add_epi32(low, high)
            })
        }
    }
}

/// `out[i][m]` is the product of row i of the weights and row m of the activations.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<K: Kernel, const M: usize>(prepared: &Prepared, block: Block, out: &mut [f32]) {
    let rows = out.len() / M;
    let row_bytes = block.codes.len() / rows.max(1);
    let units = row_bytes.div_ceil(BYTES);
    // Divisions by the columns of a group would take longer than all else.
    let (unit, columns, shift) = (prepared.x.unit, K::LANE * LANES, block.group.trailing_zeros());
    let stride = units * unit;
    assert!(prepared.x.words.len() == M * stride && prepared.sums.len() == M * block.groups);
    assert!(block.scales.len() == rows * block.groups && block.biases.len() == rows * block.groups);
    assert!(row_bytes.is_multiple_of(BYTES / 2) && units * columns <= (block.groups + 1) * block.group);
    assert!(block.group.is_power_of_two());
    // SAFETY: every access is within the slices whose lengths were just compared.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(prepared.levels.as_ptr().cast()));
        for (i, out) in out.chunks_exact_mut(M).enumerate() {
            let codes = block.codes.as_ptr().add(i * row_bytes);
            let scales = block.scales.as_ptr().add(i * block.groups);
            let biases = block.biases.as_ptr().add(i * block.groups);
            let mut sums = [_mm256_setzero_ps(); M];
            for u in 0..units {
                let place = codes.add(u * BYTES);
                // Also beyond the end: a hint never faults.
                _mm_prefetch::<_MM_HINT_T1>(place.wrapping_add(AHEAD).cast());
                let codes = if (u + 1) * BYTES <= row_bytes {
                    _mm256_loadu_si256(place.cast())
                } else {
                    _mm256_zextsi128_si256(_mm_loadu_si128(place.cast()))
                };
                let scale = scales.add((u * columns) >> shift);
                let scale = if columns > block.group && (u + 1) * BYTES <= row_bytes {
                    // Two groups.
                    _mm256_set_m128(_mm_set1_ps(*scale.add(1)), _mm_set1_ps(*scale))
                } else {
                    _mm256_set1_ps(*scale)
                };
                let x = prepared.x.words.as_ptr().add(u * unit);
                let dots = K::dot::<M>(codes, table, x, stride);
                for (m, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                    // The last register of a unit of activations has their scales.
                    let of_x = _mm256_castsi256_ps(load(x.add(m * stride + unit - LANES)));
                    *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(scale, of_x), *sum);
                }
            }
            for g in (0..block.groups).step_by(LANES) {
                let mask = first_lanes(block.groups - g);
                let bias = _mm256_maskload_ps(biases.add(g), mask);
                for (m, sum) in sums.iter_mut().enumerate() {
                    let x = prepared.sums.as_ptr().add(m * block.groups + g);
                    *sum = _mm256_fmadd_ps(bias, _mm256_maskload_ps(x, mask), *sum);
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = total(sum);
            }
        }
    }
}

/// A mask of `count` lanes, or of all if there are fewer.
#[target_feature(enable = "avx2")]
fn first_lanes(count: usize) -> __m256i {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count.min(LANES) as i32), lanes)
}

/// The sum of the lanes.
#[target_feature(enable = "avx2")]
fn total(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// A register of words.
#[inline(always)]
#[allow(clippy::inline_always)]
unsafe fn load(words: *const u32) -> __m256i {
    // SAFETY: the caller vouches for the instructions and for 8 words.
    unsafe { _mm256_loadu_si256(words.cast()) }
}
