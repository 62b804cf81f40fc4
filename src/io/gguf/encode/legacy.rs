//! Blocks of 32 weights with one scale: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1` and `Q8_0`.
//!
//! Without importance, the bytes are those of llama.cpp's reference and of the Python package `gguf`: the scale follows
//! from the range, and codes are rounded half up. With importance, the scale is [searched](super::fit).

use super::fit::{fit_affine, fit_symmetric, nearest};
use super::packing::{fifth_bits, half, put_nibbles, rounded};

const BLOCK: usize = 32;

/// Weights in the order of a row with the importance of each, a block at a time.
fn blocks<'a, const BYTES: usize>(
    row: &'a [f32],
    importance: Option<&'a [f32]>,
    out: &'a mut [u8],
) -> impl Iterator<Item = (&'a [f32; BLOCK], Option<[f32; BLOCK]>, &'a mut [u8; BYTES])> {
    let variance = row.iter().map(|x| x * x).sum::<f32>() / row.len().max(1) as f32;
    let (blocks, _) = row.as_chunks::<BLOCK>();
    let (out, _) = out.as_chunks_mut::<BYTES>();
    blocks.iter().zip(out).enumerate().map(move |(i, (x, out))| {
        let weights = importance.map(|importance| {
            std::array::from_fn(|j| importance[i * BLOCK + j] * (variance + x[j] * x[j]).sqrt())
        });
        (x, weights, out)
    })
}

/// `1/x`, or 0 where that is not finite.
fn inverse(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The scale of codes from 0 to `2·levels − 1`, `levels` of which stand for 0, and the codes.
fn symmetric(x: &[f32; BLOCK], weights: Option<[f32; BLOCK]>, levels: f32) -> (f32, [u8; BLOCK]) {
    if let Some(weights) = weights {
        let scale = fit_symmetric(x, &weights, levels);
        let by = inverse(rounded(scale));
        return (scale, x.map(|x| (nearest(x * by) + levels).clamp(0.0, 2.0 * levels - 1.0) as u8));
    }
    let extreme = x.iter().fold(0.0_f32, |most, &x| if x.abs() > most.abs() { x } else { most });
    let scale = extreme / -levels;
    let by = inverse(scale);
    (scale, x.map(|x| (x * by + (levels + 0.5)).clamp(0.0, 2.0 * levels - 1.0) as u8))
}

/// The scale, the smallest value and the codes from 0 to `levels`.
fn affine(x: &[f32; BLOCK], weights: Option<[f32; BLOCK]>, levels: f32) -> (f32, f32, [u8; BLOCK]) {
    if let Some(weights) = weights {
        let fit = fit_affine(x, &weights, levels, false);
        let (by, least) = (inverse(rounded(fit.scale)), rounded(-fit.min));
        return (fit.scale, -fit.min, x.map(|x| nearest((x - least) * by).clamp(0.0, levels) as u8));
    }
    let (least, most) = x.iter().fold((f32::MAX, f32::MIN), |(a, b), &x| (a.min(x), b.max(x)));
    let scale = (most - least) / levels;
    let by = inverse(scale);
    (scale, least, x.map(|x| ((x - least) * by + 0.5).clamp(0.0, levels) as u8))
}

pub(super) fn q4_0(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    for (x, weights, out) in blocks::<18>(row, importance, out) {
        let (scale, codes) = symmetric(x, weights, 8.0);
        out[..2].copy_from_slice(&half(scale));
        put_nibbles(&codes, &mut out[2..]);
    }
}

pub(super) fn q4_1(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    for (x, weights, out) in blocks::<20>(row, importance, out) {
        let (scale, least, codes) = affine(x, weights, 15.0);
        put_q4_1(half(scale), half(least), &codes, out);
    }
}

/// A block of `Q4_1` from its parts.
pub(super) fn put_q4_1(scale: [u8; 2], least: [u8; 2], codes: &[u8; BLOCK], out: &mut [u8]) {
    out[..2].copy_from_slice(&scale);
    out[2..4].copy_from_slice(&least);
    put_nibbles(codes, &mut out[4..]);
}

pub(super) fn q5_0(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    for (x, weights, out) in blocks::<22>(row, importance, out) {
        let (scale, codes) = symmetric(x, weights, 16.0);
        out[..2].copy_from_slice(&half(scale));
        out[2..6].copy_from_slice(&fifth_bits(&codes));
        put_nibbles(&codes, &mut out[6..]);
    }
}

pub(super) fn q5_1(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    for (x, weights, out) in blocks::<24>(row, importance, out) {
        let (scale, least, codes) = affine(x, weights, 31.0);
        put_q5_1(half(scale), half(least), &codes, out);
    }
}

/// A block of `Q5_1` from its parts.
pub(super) fn put_q5_1(scale: [u8; 2], least: [u8; 2], codes: &[u8; BLOCK], out: &mut [u8]) {
    out[..2].copy_from_slice(&scale);
    out[2..4].copy_from_slice(&least);
    out[4..8].copy_from_slice(&fifth_bits(codes));
    put_nibbles(codes, &mut out[8..]);
}

/// Eight bits leave nothing to search: importance is not used.
pub(super) fn q8_0(row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
    for (x, _, out) in blocks::<34>(row, None, out) {
        let scale = x.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 127.0;
        let by = inverse(scale);
        put_q8_0(half(scale), &x.map(|x| (x * by).round() as i8), out);
    }
}

/// A block of `Q8_0` from its parts.
pub(super) fn put_q8_0(scale: [u8; 2], codes: &[i8; BLOCK], out: &mut [u8]) {
    out[..2].copy_from_slice(&scale);
    out[2..].copy_from_slice(&codes.map(i8::cast_unsigned));
}
