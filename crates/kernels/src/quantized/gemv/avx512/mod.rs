//! Products of few rows with AVX-512, also VNNI and BF16.
//!
//! A *unit* is 64 bytes of packed codes. Codes stay where they are: lane i of a register holds
//! neighbouring columns, 8 of them for 4 bits and 4 for bytes, and shifts bring one after the other
//! down. The activations are brought into that order once per call.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::Accuracy;
use super::super::activations::{Int8, Ordered, sum_groups};
use super::super::format::Mode;
use super::super::groups::group_size;
use super::super::rows::QuantizedRows;
use super::{Block, MAX_ROWS, PREFETCH_DISTANCE, for_each_block, for_each_widened, rounded};
use crate::runtime::isa::Isa;
use crate::runtime::scratch::{self, Scratch};

mod blocks;
mod codes;

use codes::{Bf16Nibbles, F32Bytes, F32Nibbles, Int8Bytes, Int8Nibbles, Kernel, LANES};

/// Activations in the order of the codes.
pub(super) struct Prepared {
    isa: Isa,
    kind: Kind,
    x: Ordered,
    /// Sums of groups: `[rows, groups]`
    sums: Scratch<f32>,
    levels: [u8; 16],
    /// Blocks of a row before its single units.
    blocks: usize,
}

/// What is multiplied, and how many bits a code has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32Nibbles,
    Bf16Nibbles,
    Int8Nibbles,
    /// Levels that are not the codes.
    Int8Levels,
    F32Bytes,
    Int8Bytes,
}

impl Prepared {
    pub(super) fn of(isa: Isa, accuracy: Accuracy, x: &[f32], weights: &QuantizedRows) -> Self {
        let columns = weights.columns;
        let kind = match (accuracy, weights.code_bits()) {
            (Accuracy::Int8, 4) if weights.format.mode() == Mode::Mxfp4 => Kind::Int8Levels,
            (Accuracy::Int8, 4) => Kind::Int8Nibbles,
            (Accuracy::Int8, _) => Kind::Int8Bytes,
            (Accuracy::Bf16, 4) if isa >= Isa::Avx512Bf16 => Kind::Bf16Nibbles,
            (_, 4) => Kind::F32Nibbles,
            _ => Kind::F32Bytes,
        };
        let group = group_size(weights);
        // Columns of a lane, and registers that the columns of a unit take.
        let (lane, registers) = match kind {
            Kind::F32Nibbles => (8, 8),
            Kind::Bf16Nibbles => (8, 4),
            Kind::Int8Nibbles | Kind::Int8Levels => (8, 2),
            Kind::F32Bytes => (4, 4),
            Kind::Int8Bytes => (4, 1),
        };
        let levels = weights.format.levels();
        if matches!(kind, Kind::Int8Nibbles | Kind::Int8Levels | Kind::Int8Bytes) {
            let x = Int8::of(isa, x, group);
            let blocks = if group.is_multiple_of(64) { columns / blocks::COLUMNS } else { 0 };
            let ordered = if blocks > 0 {
                blocks::order(isa, &x, columns, group, lane)
            } else {
                Ordered::of(isa, &x, columns, group, (lane, LANES))
            };
            return Self { isa, kind, x: ordered, sums: x.sums, levels, blocks };
        }
        let (rows, unit) = (x.len() / columns, registers * LANES);
        let units = columns.div_ceil(lane * LANES);
        let mut words = scratch::take::<u32>(rows * units * unit);
        words.fill(0);
        let copy = (kind == Kind::Bf16Nibbles).then(|| rounded(isa, x));
        let x = copy.as_deref().unwrap_or(x);
        for (words, x) in words.chunks_exact_mut(units * unit).zip(x.chunks_exact(columns)) {
            match kind {
                Kind::Bf16Nibbles => order_bf16(words, x),
                _ => order_f32(words, x, lane),
            }
        }
        let mut sums = scratch::take(x.len() / group);
        sum_groups(isa, x, group, &mut sums);
        Self { isa, kind, x: Ordered { rows, unit, words }, sums, levels, blocks: 0 }
    }

    /// Writes the products of the rows `range` of the weights, `[range, rows of x]`.
    pub(super) fn multiply(&self, weights: &QuantizedRows, range: Range<usize>, out: &mut [f32]) {
        for_each_widened(self.isa, weights, range, out, |range, groups, out| {
            for_each_block(self.isa, weights, range, groups, out, |block, out| {
                self.multiply_block(block, out);
            });
        });
    }

    fn multiply_block(&self, block: Block<f32>, out: &mut [f32]) {
        macro_rules! for_rows {
            ($($rows:literal)*) => {
                match self.x.rows {
                    $(
                        // SAFETY: `of` chose a kind that the processor has the instructions for.
                        $rows => unsafe { match self.kind {
                            Kind::F32Nibbles => avx512::<F32Nibbles, $rows>(self, block, out),
                            Kind::F32Bytes => avx512::<F32Bytes, $rows>(self, block, out),
                            Kind::Int8Nibbles => vnni::<Int8Nibbles<false>, $rows>(self, block, out),
                            Kind::Int8Levels => vnni::<Int8Nibbles<true>, $rows>(self, block, out),
                            Kind::Int8Bytes => vnni::<Int8Bytes, $rows>(self, block, out),
                            Kind::Bf16Nibbles => bf16::<Bf16Nibbles, $rows>(self, block, out),
                        } },
                    )*
                    rows => unreachable!("{rows} rows of activations in one pass"),
                }
            };
        }
        const { assert!(MAX_ROWS == 8) }
        for_rows!(1 2 3 4 5 6 7 8);
    }
}

/// `out[i][m]` is the product of row i of the weights and row m of the activations.
///
/// # Safety
/// The processor has the kernel's instructions.
#[inline(always)]
#[allow(clippy::inline_always)]
unsafe fn multiply<K: Kernel, const M: usize>(prepared: &Prepared, block: Block<f32>, out: &mut [f32]) {
    let rows = out.len() / M;
    let row_bytes = block.codes.len() / rows.max(1);
    let units = row_bytes.div_ceil(64);
    let (blocks, first) = (prepared.blocks, prepared.blocks * K::BLOCK);
    let unit_groups = K::LANE * LANES / block.group;
    let stride = blocks * blocks::WORDS + (units - first) * prepared.x.unit;
    assert!(prepared.x.words.len() == M * stride && prepared.sums.len() == M * block.groups);
    assert!(block.scales.len() == rows * block.groups && block.biases.len() == rows * block.groups);
    // SAFETY: every access is within the slices whose lengths were just compared, or masked to be.
    unsafe {
        let lane: [i32; LANES] = std::array::from_fn(|i| (i * K::LANE / block.group) as i32);
        let lane = _mm512_loadu_si512(lane.as_ptr().cast());
        let table = K::table(&prepared.levels);
        let whole = row_bytes / 64;
        let mask = |groups: usize| ((1_u16 << groups) - 1) as u8;
        let (unit_mask, rest_mask) = (mask(unit_groups), mask(block.groups - whole * unit_groups));
        let block_groups = blocks::COLUMNS / block.group;
        let quarter: [i32; LANES] = std::array::from_fn(|i| (i / 4 * 64 / block.group) as i32);
        let quarter = _mm512_loadu_si512(quarter.as_ptr().cast());
        for (i, out) in out.chunks_exact_mut(M).enumerate() {
            let codes = block.codes.as_ptr().add(i * row_bytes);
            let scales = block.scales.as_ptr().add(i * block.groups);
            let biases = block.biases.as_ptr().add(i * block.groups);
            let mut sums = [_mm512_setzero_ps(); M];
            for b in 0..blocks {
                let codes = codes.add(b * K::BLOCK * 64);
                for register in 0..K::BLOCK {
                    _mm_prefetch::<_MM_HINT_T1>(codes.wrapping_add(PREFETCH_DISTANCE + register * 64).cast());
                }
                let scale = _mm_maskz_loadu_ps(mask(block_groups), scales.add(b * block_groups));
                let scale = _mm512_permutexvar_ps(quarter, _mm512_castps128_ps512(scale));
                let x = prepared.x.words.as_ptr().add(b * blocks::WORDS);
                let dots = blocks::dot::<K, M>(codes, table, x, stride);
                for (sum, dot) in sums.iter_mut().zip(dots) {
                    *sum = _mm512_fmadd_ps(dot, scale, *sum);
                }
            }
            for u in first..units {
                let codes = codes.add(u * 64);
                // Also beyond the end: a hint never faults.
                _mm_prefetch::<_MM_HINT_T1>(codes.wrapping_add(PREFETCH_DISTANCE).cast());
                let (codes, scale) = if u < whole {
                    (_mm512_loadu_si512(codes.cast()), scales.add(u * unit_groups))
                } else {
                    let mask = u64::MAX >> (64 - (row_bytes - u * 64));
                    (_mm512_maskz_loadu_epi8(mask, codes.cast()), scales.add(u * unit_groups))
                };
                let scale = _mm_maskz_loadu_ps(if u < whole { unit_mask } else { rest_mask }, scale);
                let scale = _mm512_permutevar_ps(_mm512_broadcast_f32x4(scale), lane);
                let x = prepared.x.words.as_ptr().add(blocks * blocks::WORDS + (u - first) * prepared.x.unit);
                let dots = K::dot::<M>(codes, table, x, stride);
                for (sum, dot) in sums.iter_mut().zip(dots) {
                    *sum = _mm512_fmadd_ps(dot, scale, *sum);
                }
            }
            for g in (0..block.groups).step_by(LANES) {
                let mask = u16::MAX >> (LANES - (block.groups - g).min(LANES));
                let bias = _mm512_maskz_loadu_ps(mask, biases.add(g));
                for (m, sum) in sums.iter_mut().enumerate() {
                    let x = prepared.sums.as_ptr().add(m * block.groups + g);
                    *sum = _mm512_fmadd_ps(bias, _mm512_maskz_loadu_ps(mask, x), *sum);
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = _mm512_reduce_add_ps(sum);
            }
        }
    }
}

macro_rules! with_features {
    ($($name:ident: $features:literal;)*) => {$(
        #[target_feature(enable = $features)]
        unsafe fn $name<K: Kernel, const M: usize>(prepared: &Prepared, block: Block<f32>, out: &mut [f32]) {
            // SAFETY: the caller vouches for the instructions.
            unsafe { multiply::<K, M>(prepared, block, out) }
        }
    )*};
}

with_features! {
    avx512: "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma";
    vnni: "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512vnni";
    bf16: "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16";
}

/// Lane i of register j gets column `lane·i + j`.
fn order_f32(words: &mut [u32], x: &[f32], lane: usize) {
    for (unit, x) in words.chunks_exact_mut(lane * LANES).zip(x.chunks(lane * LANES)) {
        for (i, x) in x.chunks_exact(lane).enumerate() {
            for (j, x) in x.iter().enumerate() {
                unit[j * LANES + i] = x.to_bits();
            }
        }
    }
}

/// Lane i of register j gets columns `8·i + j` and `8·i + j + 4`; `x` was rounded to bf16.
fn order_bf16(words: &mut [u32], x: &[f32]) {
    for (unit, x) in words.chunks_exact_mut(4 * LANES).zip(x.chunks(8 * LANES)) {
        for (i, x) in x.chunks_exact(8).enumerate() {
            for j in 0..4 {
                unit[j * LANES + i] = x[j].to_bits() >> 16 | x[j + 4].to_bits() & 0xffff_0000;
            }
        }
    }
}
