//! With AVX2: products of bytes are added in pairs to 16 bits, where they stay as long as they have room.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;

use super::super::format::{Format, Mode};
use super::{Panel, Part, for_height};

/// Rows of weights in a panel: two registers.
pub(super) const WIDTH: usize = 16;
/// Rows of activations at once: their sums fill the registers.
pub(super) const HEIGHT: usize = 6;

/// Whether sums of two products have room in 16 bits.
pub(super) fn takes(format: Format) -> bool {
    room(format) > 0
}

/// Pairs of products whose sum has room in 16 bits, as a divisor of the words of a group: 8, 4, 2 or 0.
fn room(format: Format) -> usize {
    match (format.mode(), format.bits()) {
        // 8·2·15·127 = 30 480, and so on.
        (Mode::Affine, ..=4) => 8,
        // Levels up to 24.
        (Mode::Mxfp4, _) | (Mode::Affine, 5) => 4,
        (Mode::Affine, 6) => 2,
        _ => 0,
    }
}

/// Adds the products with `x` to `tile`, `[rows, WIDTH]`.
///
/// # Safety
/// The processor has the instructions of `Isa::Avx2`, and this [takes] the format.
pub(super) unsafe fn multiply(panel: &Panel, x: Part, format: Format, tile: &mut [f32]) {
    const { assert!(HEIGHT == 6) }
    let steps = room(format);
    for_height!(x.rows, [1 2 3 4 5 6], multiply_rows(panel, x, steps, tile));
}

/// # Safety
/// As of `multiply`.
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_rows<const H: usize>(panel: &Panel, x: Part, steps: usize, tile: &mut [f32]) {
    let Part { columns, group, codes, scales, sums, .. } = x;
    let groups = columns / group;
    assert!(x.rows == H && panel.fits(x, WIDTH, tile) && (group / 4).is_multiple_of(steps), "sizes");
    // SAFETY: all places are within the slices whose lengths were just checked.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        for g in 0..groups {
            let mut dots = [[_mm256_setzero_si256(); 2]; H];
            for first in (g * group / 4..(g + 1) * group / 4).step_by(steps) {
                let mut pairs = [[_mm256_setzero_si256(); 2]; H];
                for step in first..first + steps {
                    let words = panel.words.as_ptr().add(step * WIDTH);
                    let w = [_mm256_loadu_si256(words.cast()), _mm256_loadu_si256(words.add(8).cast())];
                    for (r, pairs) in pairs.iter_mut().enumerate() {
                        let four = codes.as_ptr().add(r * columns + step * 4).cast::<[u8; 4]>();
                        let four = _mm256_set1_epi32(i32::from_le_bytes(*four));
                        for (sum, w) in pairs.iter_mut().zip(w) {
                            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(w, four));
                        }
                    }
                }
                for (sum, pairs) in dots.as_flattened_mut().iter_mut().zip(pairs.as_flattened()) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(*pairs, ones));
                }
            }
            for half in 0..2 {
                let place = g * WIDTH + half * 8;
                let scale = _mm256_loadu_ps(panel.scales.as_ptr().add(place).cast());
                let bias = _mm256_loadu_ps(panel.biases.as_ptr().add(place).cast());
                for (r, dots) in dots.iter().enumerate() {
                    let number = r * groups + g;
                    let c = tile.as_mut_ptr().add(r * WIDTH + half * 8);
                    let both = _mm256_mul_ps(scale, _mm256_set1_ps(*scales.as_ptr().add(number)));
                    let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[half]), both, _mm256_loadu_ps(c));
                    let shift = _mm256_set1_ps(*sums.as_ptr().add(number));
                    _mm256_storeu_ps(c, _mm256_fmadd_ps(bias, shift, sum));
                }
            }
        }
    }
}
