//! With VNNI: one instruction adds the products of four columns to each lane.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;

use super::{Panel, Part, for_height};

/// Rows of weights in a panel: two registers.
pub(super) const WIDTH: usize = 32;
/// Rows of activations at once: their sums fill the registers.
pub(super) const HEIGHT: usize = 12;

/// Adds the products with `x` to `tile`, `[rows, WIDTH]`.
///
/// # Safety
/// The processor has the instructions of `Isa::Avx512Vnni`.
pub(super) unsafe fn multiply(panel: &Panel, x: Part, tile: &mut [f32]) {
    const { assert!(HEIGHT == 12) }
    for_height!(x.rows, [1 2 3 4 5 6 7 8 9 10 11 12], multiply_rows(panel, x, tile));
}

/// # Safety
/// As of `multiply`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512vnni")]
unsafe fn multiply_rows<const H: usize>(panel: &Panel, x: Part, tile: &mut [f32]) {
    let Part { columns, group, codes, scales, sums, .. } = x;
    let groups = columns / group;
    assert!(x.rows == H && panel.fits(x, WIDTH, tile), "sizes");
    // SAFETY: all places are within the slices whose lengths were just checked.
    unsafe {
        for g in 0..groups {
            let mut dots = [[_mm512_setzero_si512(); 2]; H];
            for step in g * group / 4..(g + 1) * group / 4 {
                let words = panel.words.as_ptr().add(step * WIDTH);
                let w = [_mm512_loadu_si512(words.cast()), _mm512_loadu_si512(words.add(16).cast())];
                for (r, dots) in dots.iter_mut().enumerate() {
                    let four = codes.as_ptr().add(r * columns + step * 4).cast::<[u8; 4]>();
                    let four = _mm512_set1_epi32(i32::from_le_bytes(*four));
                    dots[0] = _mm512_dpbusd_epi32(dots[0], w[0], four);
                    dots[1] = _mm512_dpbusd_epi32(dots[1], w[1], four);
                }
            }
            for half in 0..2 {
                let place = g * WIDTH + half * 16;
                let scale = _mm512_loadu_ps(panel.scales.as_ptr().add(place).cast());
                let bias = _mm512_loadu_ps(panel.biases.as_ptr().add(place).cast());
                for (r, dots) in dots.iter().enumerate() {
                    let number = r * groups + g;
                    let c = tile.as_mut_ptr().add(r * WIDTH + half * 16);
                    let both = _mm512_mul_ps(scale, _mm512_set1_ps(*scales.as_ptr().add(number)));
                    let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[half]), both, _mm512_loadu_ps(c));
                    let shift = _mm512_set1_ps(*sums.as_ptr().add(number));
                    _mm512_storeu_ps(c, _mm512_fmadd_ps(bias, shift, sum));
                }
            }
        }
    }
}
