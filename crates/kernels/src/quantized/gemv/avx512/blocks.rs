//! Products with int8 activations: blocks of four times 64 columns.
//!
//! Lanes 4b to 4b + 3 hold columns of the quarter b, so that four registers of codes add up to one register of sums
//! before scales come in: with several rows of activations, converting and scaling sums takes longer than the products.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;

use super::super::super::activations::{Int8, Ordered};
use super::codes::{Kernel, LANES, load, load_ps};
use crate::runtime::isa::Isa;
use crate::runtime::scratch;

/// Columns of a block.
pub(super) const COLUMNS: usize = 256;

/// Words of a block of activations: four registers of codes, then the scale of each lane.
pub(super) const WORDS: usize = 5 * LANES;

/// Activations in the order of [`Kernel::block`], and what is left of a row in the order of single units, of
/// `lane` columns per lane.
pub(super) fn order(isa: Isa, x: &Int8, columns: usize, group: usize, lane: usize) -> Ordered {
    let blocks = columns / COLUMNS;
    let (rest, groups) = (columns % COLUMNS, columns / group);
    let rows = x.codes.len() / columns;
    let unit = (lane / 4 + 1) * LANES;
    let stride = blocks * WORDS + rest.div_ceil(lane * LANES) * unit;
    let mut words = scratch::take::<u32>(rows * stride);
    let of_rows = x.codes.chunks_exact(columns).zip(x.scales.chunks_exact(groups));
    for (words, (codes, scales)) in words.chunks_exact_mut(stride).zip(of_rows) {
        let (whole, left) = words.split_at_mut(blocks * WORDS);
        let (codes, rest_codes) = codes.split_at(blocks * COLUMNS);
        let scale = |column: usize| scales[column / group].to_bits();
        for (i, (words, codes)) in whole.chunks_exact_mut(WORDS).zip(codes.chunks_exact(COLUMNS)).enumerate()
        {
            let (ordered, of_lanes) = words.split_at_mut(4 * LANES);
            let bytes: &mut [i8] = bytemuck::cast_slice_mut(ordered);
            for (b, codes) in codes.chunks_exact(64).enumerate() {
                if lane == 4 {
                    for (r, codes) in codes.chunks_exact(16).enumerate() {
                        bytes[r * 64 + b * 16..][..16].copy_from_slice(codes);
                    }
                } else {
                    for (r, codes) in codes.chunks_exact(32).enumerate() {
                        let (even, odd) = bytes[r * 128..][..128].split_at_mut(64);
                        let places = even[b * 16..][..16].iter_mut().zip(&mut odd[b * 16..][..16]);
                        for (pair, (even, odd)) in codes.as_chunks::<2>().0.iter().zip(places) {
                            [*even, *odd] = *pair;
                        }
                    }
                }
                of_lanes[b * 4..][..4].fill(scale(i * COLUMNS + b * 64));
            }
        }
        Ordered::write(isa, rest_codes, &scales[blocks * COLUMNS / group..], group, (lane, LANES), left);
    }
    Ordered { rows, unit, words }
}

/// Dot products of a block of codes with the block at `x` and those of the next `M - 1` rows, each `stride` words on.
///
/// # Safety
/// The processor has the kernel's instructions, and blocks can be read at each of these places.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) unsafe fn dot<K: Kernel, const M: usize>(
    codes: *const u8,
    table: __m512i,
    x: *const u32,
    stride: usize,
) -> [__m512; M] {
    // SAFETY: the caller vouches for the instructions and for the places.
    unsafe {
        let levels = K::block(codes, table);
        std::array::from_fn(|m| {
            let x = x.add(m * stride);
            let mut sum = _mm512_setzero_si512();
            for (r, &levels) in levels.iter().enumerate() {
                sum = _mm512_dpbusd_epi32(sum, levels, load(x.add(r * LANES)));
            }
            _mm512_mul_ps(_mm512_cvtepi32_ps(sum), load_ps(x.add(4 * LANES)))
        })
    }
}
