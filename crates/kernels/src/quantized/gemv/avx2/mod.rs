//! Products of few rows in 8-bit integers with AVX2.
//!
//! As [with AVX-512](super::avx512), in units of 32 bytes: lane i of a register holds neighbouring
//! columns, 8 of them for codes of 4 bits and 4 for bytes, and the activations are brought into that order.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::activations::{Int8, Ordered};
use super::super::format::Mode;
use super::super::groups::group_size;
use super::super::rows::{GroupNumbers, QuantizedRows};
use super::{Block, MAX_ROWS, PREFETCH_DISTANCE, for_each_block, for_each_widened};
use crate::runtime::isa::Isa;
use crate::runtime::scratch::{self, Scratch};

mod codes;
mod numbers;

use codes::{Bytes, Kernel, LevelPairs, NibblePairs, Nibbles, WholeBytes};
use numbers::{Number, dot, widen, windows};

/// Words of a register.
const LANES: usize = 8;
/// Bytes of a register.
const BYTES: usize = 32;

/// Activations in the order of the codes.
pub(super) struct Prepared {
    isa: Isa,
    kind: Kind,
    x: Ordered,
    /// Sums of the groups of a row, eight for each of the [`windows`] on the scales; 0 where windows overlap.
    sums: Scratch<f32>,
    levels: [u8; 16],
}

/// What a byte of codes is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nibbles,
    /// Two groups in a unit.
    NibblePairs,
    LevelPairs,
    Bytes,
    WholeBytes,
}

impl Prepared {
    pub(super) fn of(isa: Isa, x: &[f32], weights: &QuantizedRows) -> Self {
        let kind = match (weights.format.mode(), weights.format.bits()) {
            (Mode::Affine, 4) if weights.is_sparse() => Kind::Bytes,
            (Mode::Mxfp4, _) => Kind::LevelPairs,
            (Mode::Affine, 4) if weights.format.group_size() == 32 => Kind::NibblePairs,
            (Mode::Affine, 4) => Kind::Nibbles,
            (Mode::Affine, 8) => Kind::WholeBytes,
            _ => Kind::Bytes,
        };
        let lane = if matches!(kind, Kind::Bytes | Kind::WholeBytes) { 4 } else { 8 };
        let group = group_size(weights);
        let x = Int8::of(isa, x, group);
        let ordered = Ordered::of(isa, &x, weights.columns, group, (lane, LANES));
        let sums = windowed(&x.sums, weights.groups(), weights.format.group_size() / group);
        Self { isa, kind, x: ordered, sums, levels: weights.format.levels() }
    }

    /// Writes the products of the rows `range` of the weights, `[range, rows of x]`.
    pub(super) fn multiply(&self, weights: &QuantizedRows, range: Range<usize>, out: &mut [f32]) {
        match weights.stored_groups(range.clone()) {
            (GroupNumbers::F32(scales), Some(GroupNumbers::F32(biases))) => {
                self.multiply_stored(weights, range, (scales, biases), out);
            }
            (GroupNumbers::F16(scales), Some(GroupNumbers::F16(biases))) => {
                self.multiply_stored(weights, range, (scales, biases), out);
            }
            (GroupNumbers::Bf16(scales), Some(GroupNumbers::Bf16(biases))) => {
                self.multiply_stored(weights, range, (scales, biases), out);
            }
            _ => for_each_widened(self.isa, weights, range, out, |range, groups, out| {
                self.multiply_stored(weights, range, groups, out);
            }),
        }
    }

    fn multiply_stored<N: Number>(
        &self,
        weights: &QuantizedRows,
        range: Range<usize>,
        groups: (&[N], &[N]),
        out: &mut [f32],
    ) {
        for_each_block(self.isa, weights, range, groups, out, |block, out| self.multiply_block(block, out));
    }

    fn multiply_block<N: Number>(&self, block: Block<N>, out: &mut [f32]) {
        macro_rules! for_rows {
            ($($rows:literal by $at_once:literal,)*) => {
                match self.x.rows {
                    $(
                        // SAFETY: this is built only for processors with AVX2, FMA and F16C.
                        $rows => unsafe { match self.kind {
                            Kind::Nibbles => multiply::<Nibbles, N, $rows, $at_once>(self, block, out),
                            Kind::NibblePairs => multiply::<NibblePairs, N, $rows, $at_once>(self, block, out),
                            Kind::LevelPairs => multiply::<LevelPairs, N, $rows, $at_once>(self, block, out),
                            Kind::Bytes => multiply::<Bytes, N, $rows, $at_once>(self, block, out),
                            Kind::WholeBytes => multiply::<WholeBytes, N, $rows, $at_once>(self, block, out),
                        } },
                    )*
                    rows => unreachable!("{rows} rows of activations in one pass"),
                }
            };
        }
        const { assert!(MAX_ROWS == 8) }
        // As many sums as there are registers for.
        for_rows!(1 by 4, 2 by 2, 3 by 2, 4 by 1, 5 by 1, 6 by 1, 7 by 1, 8 by 1,);
    }
}

/// `sums` of `parts` neighbours each, `groups` of them in a row, in the order of [`windows`].
fn windowed(sums: &[f32], groups: usize, parts: usize) -> Scratch<f32> {
    let len = groups.next_multiple_of(LANES);
    let mut ordered = scratch::take::<f32>(sums.len() / (groups * parts) * len);
    ordered.fill(0.0);
    for (ordered, sums) in ordered.chunks_exact_mut(len).zip(sums.chunks_exact(groups * parts)) {
        let mut done = 0;
        for (start, ordered) in windows(groups).zip(ordered.as_chunks_mut::<LANES>().0) {
            let end = groups.min(start + LANES);
            for group in done..end {
                ordered[group - start] = sums[group * parts..(group + 1) * parts].iter().sum();
            }
            done = end;
        }
    }
    ordered
}

/// `out[i][m]` is the product of row i of the weights and row m of the activations; `R` rows of weights go
/// together, so that activations are loaded once for all of them.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<K: Kernel, N: Number, const M: usize, const R: usize>(
    prepared: &Prepared,
    block: Block<N>,
    out: &mut [f32],
) {
    let rows = out.len() / M;
    let row_bytes = block.codes.len() / rows.max(1);
    let (units, columns) = (row_bytes.div_ceil(BYTES), K::LANE * LANES);
    let window = block.groups.next_multiple_of(LANES);
    assert!(prepared.x.words.len() == M * units * prepared.x.unit && prepared.sums.len() == M * window);
    assert!(block.scales.len() == rows * block.groups && block.biases.len() == rows * block.groups);
    assert!(block.group.is_power_of_two() && K::PAIR == (columns == 2 * block.group));
    assert!(row_bytes.is_multiple_of(if K::PAIR { BYTES / 2 } else { BYTES }));
    assert!(row_bytes / (BYTES / 2) * (columns / 2) <= block.groups * block.group);
    let mut scales = scratch::take(R * window);
    let mut tile = Tile { row_bytes, shift: block.group.trailing_zeros(), window, scales: &mut scales };
    let many = rows / R * R;
    // SAFETY: every access is within the slices whose lengths were just compared.
    unsafe {
        for i in (0..many).step_by(R) {
            tile.multiply::<K, N, M, R>(prepared, block, i, &mut out[i * M..(i + R) * M]);
        }
        for i in many..rows {
            tile.multiply::<K, N, M, 1>(prepared, block, i, &mut out[i * M..(i + 1) * M]);
        }
    }
}

/// What all rows of a block have in common.
struct Tile<'a> {
    row_bytes: usize,
    /// Logarithm of the columns of a group: divisions would take longer than all else.
    shift: u32,
    /// Room for the numbers of a row's groups.
    window: usize,
    /// Scales of the rows that are multiplied, widened.
    scales: &'a mut [f32],
}

#[allow(clippy::inline_always)]
impl Tile<'_> {
    /// The rows from `row` on.
    ///
    /// # Safety
    /// The processor has AVX2, FMA and F16C, and all sizes fit each other.
    #[inline(always)]
    unsafe fn multiply<K: Kernel, N: Number, const M: usize, const R: usize>(
        &mut self,
        prepared: &Prepared,
        block: Block<N>,
        row: usize,
        out: &mut [f32],
    ) {
        // SAFETY: the caller's.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); M]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                let groups = (row + r) * block.groups..(row + r + 1) * block.groups;
                widen(&block.scales[groups.clone()], &mut self.scales[r * self.window..]);
                for (sum, of_x) in sums.iter_mut().zip(prepared.sums.chunks_exact(self.window)) {
                    *sum = dot(&block.biases[groups.clone()], of_x);
                }
            }
            let codes = std::array::from_fn(|r| block.codes.as_ptr().add((row + r) * self.row_bytes));
            for u in 0..self.row_bytes / BYTES {
                self.add::<K, M, R, false>(prepared, codes, u, &mut sums);
            }
            if K::PAIR && !self.row_bytes.is_multiple_of(BYTES) {
                self.add::<K, M, R, true>(prepared, codes, self.row_bytes / BYTES, &mut sums);
            }
            for (out, &sum) in out.iter_mut().zip(sums.as_flattened()) {
                *out = total(sum);
            }
        }
    }

    /// Adds the products of unit `u` of each row; half a unit is one group.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn add<K: Kernel, const M: usize, const R: usize, const HALF: bool>(
        &self,
        prepared: &Prepared,
        codes: [*const u8; R],
        u: usize,
        sums: &mut [[__m256; M]; R],
    ) {
        // SAFETY: the caller's.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(prepared.levels.as_ptr().cast()));
            let unit = prepared.x.unit;
            let x = prepared.x.words.as_ptr().add(u * unit);
            let stride = prepared.x.words.len() / M;
            let group = (u * K::LANE * LANES) >> self.shift;
            for r in 0..R {
                let place = codes[r].add(u * BYTES);
                // Also beyond the end: a hint never faults.
                _mm_prefetch::<_MM_HINT_T1>(place.wrapping_add(PREFETCH_DISTANCE).cast());
                let codes = if HALF {
                    _mm256_zextsi128_si256(_mm_loadu_si128(place.cast()))
                } else {
                    _mm256_loadu_si256(place.cast())
                };
                let of_row = self.scales.as_ptr().add(r * self.window + group);
                let mut scale = _mm256_broadcast_ss(&*of_row);
                if K::PAIR && !HALF {
                    scale = _mm256_blend_ps::<0xf0>(scale, _mm256_broadcast_ss(&*of_row.add(1)));
                }
                let levels = K::levels(codes, table);
                for (m, sum) in sums[r].iter_mut().enumerate() {
                    let x = x.add(m * stride);
                    let dot = _mm256_cvtepi32_ps(K::dot(levels, x));
                    // The last register of a unit of activations has their scales.
                    let of_x = _mm256_castsi256_ps(load(x.add(unit - LANES)));
                    *sum = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, of_x), *sum);
                }
            }
        }
    }
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
