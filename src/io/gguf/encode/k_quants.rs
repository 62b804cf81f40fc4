//! Superblocks of 256 weights, whose groups have scales that are quantized themselves: `Q4_K`, `Q5_K` and `Q6_K`.
//!
//! | type | groups | weight |
//! |---|---|---|
//! | `Q4_K`, `Q5_K` | 8 of 32 | `d·scale·code − dmin·min`, with scales and minima of 6 bits |
//! | `Q6_K` | 16 of 16 | `d·scale·(code − 32)`, with signed scales of 8 bits |

use super::fit::{fit_affine, fit_positive, fit_symmetric, nearest};
use super::packing::{half, put_nibbles, put_six_bits, rounded};

const SUPERBLOCK: usize = 256;

pub(super) fn q4_k(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    for (x, importance, out) in superblocks::<144>(row, importance, out) {
        let codes = affine(x, importance, 15, &mut out[..16]);
        for (codes, out) in codes.chunks_exact(64).zip(out[16..].chunks_exact_mut(32)) {
            put_nibbles(codes, out);
        }
    }
}

pub(super) fn q5_k(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    for (x, importance, out) in superblocks::<176>(row, importance, out) {
        let codes = affine(x, importance, 31, &mut out[..16]);
        let (high, low) = out[16..].split_at_mut(32);
        for (j, byte) in high.iter_mut().enumerate() {
            *byte = (0..8).fold(0, |bits, group| bits | (codes[group * 32 + j] >> 4 << group));
        }
        for (codes, out) in codes.chunks_exact(64).zip(low.chunks_exact_mut(32)) {
            put_nibbles(codes, out);
        }
    }
}

pub(super) fn q6_k(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    for (x, importance, out) in superblocks::<210>(row, importance, out) {
        let (groups, _) = x.as_chunks::<16>();
        let scales: [f32; 16] = std::array::from_fn(|g| {
            let weights: [f32; 16] = match importance {
                Some(importance) => std::array::from_fn(|j| importance[g * 16 + j]),
                None => groups[g].map(|x| x * x),
            };
            fit_symmetric(&groups[g], &weights, 32.0)
        });
        let extreme = scales.iter().fold(0.0_f32, |most, &x| if x.abs() > most.abs() { x } else { most });
        let d = extreme / -128.0;
        let by = if d == 0.0 { 0.0 } else { 1.0 / d };
        let d = rounded(d);
        let mut codes = [0_u8; SUPERBLOCK];
        for (g, scale) in scales.iter().enumerate() {
            let small = nearest(by * scale).clamp(-128.0, 127.0);
            out[192 + g] = (small as i8).cast_unsigned();
            let scale = d * small;
            for (code, x) in codes[g * 16..].iter_mut().zip(&groups[g]) {
                *code = if scale == 0.0 { 32 } else { (nearest(x / scale).clamp(-32.0, 31.0) + 32.0) as u8 };
            }
        }
        for (part, codes) in codes.chunks_exact(128).enumerate() {
            let code = |j: usize, quarter: usize| codes[quarter * 32 + j];
            for j in 0..32 {
                out[part * 64 + j] = (code(j, 0) & 15) | (code(j, 2) << 4);
                out[part * 64 + 32 + j] = (code(j, 1) & 15) | (code(j, 3) << 4);
                out[128 + part * 32 + j] =
                    (0..4).fold(0, |bits, quarter| bits | (code(j, quarter) >> 4 << (2 * quarter)));
            }
        }
        out[208..].copy_from_slice(&half(d));
    }
}

fn superblocks<'a, const BYTES: usize>(
    row: &'a [f32],
    importance: Option<&'a [f32]>,
    out: &'a mut [u8],
) -> impl Iterator<Item = (&'a [f32; SUPERBLOCK], Option<&'a [f32]>, &'a mut [u8; BYTES])> {
    let (blocks, _) = row.as_chunks::<SUPERBLOCK>();
    let (out, _) = out.as_chunks_mut::<BYTES>();
    blocks.iter().zip(out).enumerate().map(move |(i, (x, out))| {
        (x, importance.map(|importance| &importance[i * SUPERBLOCK..(i + 1) * SUPERBLOCK]), out)
    })
}

/// Codes from 0 to `levels` of eight groups, whose scales and minima are written to the 16 bytes `out`.
fn affine(x: &[f32; SUPERBLOCK], importance: Option<&[f32]>, levels: u8, out: &mut [u8]) -> [u8; SUPERBLOCK] {
    let (groups, _) = x.as_chunks::<32>();
    let levels = f32::from(levels);
    let variance = 2.0 * x.iter().map(|x| x * x).sum::<f32>() / SUPERBLOCK as f32;
    let (mut scales, mut mins, mut totals) = ([0.0; 8], [0.0; 8], [0.0; 8]);
    for (g, x) in groups.iter().enumerate() {
        let weights: [f32; 32] = if let Some(importance) = importance {
            std::array::from_fn(|j| importance[g * 32 + j] * (variance + x[j] * x[j]).sqrt())
        } else {
            let size = (x.iter().map(|x| x * x).sum::<f32>() / 32.0).sqrt();
            x.map(|x| size + x.abs())
        };
        let fit = fit_affine(x, &weights, levels, true);
        (scales[g], mins[g], totals[g]) = (fit.scale, fit.min, weights.iter().sum());
    }
    let (d, scales) = fit_positive(&scales, &totals, 63.0);
    let (dmin, mins) = fit_positive(&mins, &totals, 63.0);
    out[..2].copy_from_slice(&half(d));
    out[2..4].copy_from_slice(&half(dmin));
    put_six_bits(scales, mins, &mut out[4..]);
    let (d, dmin) = (rounded(d), rounded(dmin));
    let mut codes = [0_u8; SUPERBLOCK];
    for (g, x) in groups.iter().enumerate() {
        let (scale, min) = (d * f32::from(scales[g]), dmin * f32::from(mins[g]));
        if scale > 0.0 {
            for (code, x) in codes[g * 32..].iter_mut().zip(x) {
                *code = nearest((x + min) / scale).clamp(0.0, levels) as u8;
            }
        }
    }
    codes
}
