//! The grid of an affine format: which values the weights of each group may take.

use half::{bf16, f16};
use mlx_rs::Dtype;
use rayon::prelude::*;

use crate::kernels::quantized::Format;

/// Numbers that are summed side by side; divides every group size.
const LANES: usize = 8;
/// Largest group size.
const MAX_GROUP: usize = 128;
/// Candidates of the range search.
const STEPS: usize = 24;
/// Largest and smallest range that is tried, relative to that of the weights.
const RANGES: [f32; 2] = [1.06, 0.6];

/// A scale and a bias for each group of a matrix, as they are stored: a weight is `scale·code + bias`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Grid {
    pub format: Format,
    /// `[rows, columns / group_size]`
    pub scales: Vec<f32>,
    /// As `scales`.
    pub biases: Vec<f32>,
    groups: usize,
}

/// Scale and bias of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Affine {
    pub scale: f32,
    pub bias: f32,
}

impl Grid {
    /// Fits a grid to `weights`, `[rows, columns]`: from the smallest to the largest weight of each group, or with
    /// `search`, with the least [weighted](error_weights) squared error. Scales and biases are rounded to `dtype`.
    pub(super) fn fit(
        weights: &[f32],
        columns: usize,
        format: Format,
        dtype: Dtype,
        search: bool,
        importance: Option<&[f32]>,
    ) -> Self {
        let (size, groups) = (format.group_size(), columns / format.group_size());
        let max = max_code(format);
        let fit = |(index, weights): (usize, &[f32])| {
            let least = Affine::of_range(weights, max).rounded(dtype);
            if !search {
                return least;
            }
            let first = index % groups * size;
            let importance = importance.map(|all| &all[first..first + size]);
            search_range(weights, &error_weights(weights, importance)[..size], max, dtype, least)
        };
        let (scales, biases) = weights
            .par_chunks_exact(size)
            .enumerate()
            .map(fit)
            .map(|Affine { scale, bias }| (scale, bias))
            .unzip();
        Self { format, scales, biases, groups }
    }

    /// Scale and bias of the weight at `row` and `column`.
    #[inline]
    pub(super) fn at(&self, row: usize, column: usize) -> Affine {
        let index = row * self.groups + column / self.format.group_size();
        Affine { scale: self.scales[index], bias: self.biases[index] }
    }

    /// Rounds `weights`, `[rows, columns]`, to codes.
    pub(super) fn encode(&self, weights: &[f32], codes: &mut [u8]) {
        let (size, max) = (self.format.group_size(), max_code(self.format));
        codes.par_chunks_exact_mut(size).zip(weights.par_chunks_exact(size)).enumerate().for_each(
            |(index, (codes, weights))| {
                let affine = Affine { scale: self.scales[index], bias: self.biases[index] };
                for (code, &weight) in codes.iter_mut().zip(weights) {
                    *code = affine.code(weight, max) as u8;
                }
            },
        );
    }

    /// Squared error of `weights` rounded to the nearest codes; errors of a column count as much as `importance` says.
    pub(super) fn rounding_error(&self, weights: &[f32], importance: Option<&[f32]>) -> f64 {
        let (size, max) = (self.format.group_size(), max_code(self.format));
        let ones = vec![1.0; size];
        let errors = weights.par_chunks_exact(size).enumerate().map(|(index, weights)| {
            let affine = Affine { scale: self.scales[index], bias: self.biases[index] };
            let group = index % self.groups;
            let importance = importance.map_or(&ones[..], |all| &all[group * size..(group + 1) * size]);
            f64::from(affine.error(weights, importance, max))
        });
        errors.collect::<Vec<f64>>().iter().sum()
    }

    /// Replaces `weights`, `[rows, columns]`, by the nearest values.
    pub(super) fn round(&self, weights: &mut [f32]) {
        let (size, max) = (self.format.group_size(), max_code(self.format));
        weights.par_chunks_exact_mut(size).enumerate().for_each(|(index, weights)| {
            let affine = Affine { scale: self.scales[index], bias: self.biases[index] };
            for weight in weights {
                *weight = affine.value(affine.code(*weight, max));
            }
        });
    }

    /// Squared error of `codes` for `weights`, relative to the squares of `weights`.
    pub(super) fn relative_error(&self, weights: &[f32], codes: &[u8]) -> f64 {
        let size = self.format.group_size();
        let sums = weights.par_chunks_exact(size).zip(codes.par_chunks_exact(size)).enumerate().map(
            |(index, (weights, codes))| {
                let affine = Affine { scale: self.scales[index], bias: self.biases[index] };
                weights.iter().zip(codes).fold([0.0, 0.0], |[error, square], (&weight, &code)| {
                    let difference = f64::from(weight - affine.value(f32::from(code)));
                    [error + difference * difference, square + f64::from(weight) * f64::from(weight)]
                })
            },
        );
        // In order, so that a resumed run reports the same.
        let sums: Vec<[f64; 2]> = sums.collect();
        let [error, square] = sums.iter().fold([0.0; 2], |[a, b], [c, d]| [a + c, b + d]);
        if square > 0.0 { error / square } else { 0.0 }
    }
}

/// The largest code.
pub(super) fn max_code(format: Format) -> f32 {
    ((1_u32 << format.bits()) - 1) as f32
}

impl Affine {
    /// The grid from the smallest to the largest of `weights`, as MLX chooses it: zero is a value of it.
    fn of_range(weights: &[f32], max: f32) -> Self {
        let (low, high) = bounds(weights);
        let scale = ((high - low) / max).max(1e-7);
        let (edge, scale) = if low.abs() > high.abs() { (low, scale) } else { (high, -scale) };
        let steps = (edge / scale).round_ties_even();
        if steps == 0.0 { Self { scale, bias: 0.0 } } else { Self { scale: edge / steps, bias: edge } }
    }

    /// The nearest code of `weight`.
    #[inline]
    pub(super) fn code(self, weight: f32, max: f32) -> f32 {
        nearest((weight - self.bias) / self.scale, max)
    }

    /// The weight of `code`.
    #[inline]
    pub(super) fn value(self, code: f32) -> f32 {
        self.scale * code + self.bias
    }

    fn rounded(self, dtype: Dtype) -> Self {
        let round = |x: f32| match dtype {
            Dtype::Bfloat16 => bf16::from_f32(x).to_f32(),
            Dtype::Float16 => f16::from_f32(x).to_f32(),
            _ => x,
        };
        Self { scale: round(self.scale), bias: round(self.bias) }
    }

    /// Sum of the squared errors of `weights`, each times its `importance`.
    fn error(self, weights: &[f32], importance: &[f32], max: f32) -> f32 {
        let (mut sums, inverse) = ([0.0; LANES], self.scale.recip());
        for (weights, importance) in weights.chunks_exact(LANES).zip(importance.chunks_exact(LANES)) {
            for lane in 0..LANES {
                let code = nearest((weights[lane] - self.bias) * inverse, max);
                let error = weights[lane] - self.value(code);
                sums[lane] += importance[lane] * error * error;
            }
        }
        sums.iter().sum()
    }

    /// The scale and bias with the least squared error for the codes of this one.
    fn refit(self, weights: &[f32], importance: &[f32], max: f32) -> Option<Self> {
        let (mut sums, inverse) = ([[0.0_f32; LANES]; 5], self.scale.recip());
        for (weights, importance) in weights.chunks_exact(LANES).zip(importance.chunks_exact(LANES)) {
            for lane in 0..LANES {
                let (weight, h) = (weights[lane], importance[lane]);
                let code = nearest((weight - self.bias) * inverse, max);
                sums[0][lane] += h;
                sums[1][lane] += h * code;
                sums[2][lane] += h * code * code;
                sums[3][lane] += h * weight;
                sums[4][lane] += h * code * weight;
            }
        }
        let [h, hq, hqq, hw, hqw] = sums.map(|lanes| lanes.iter().sum::<f32>());
        let determinant = h * hqq - hq * hq;
        // The codes may all be the same.
        if determinant <= 1e-6 * h * hqq {
            return None;
        }
        let scale = (h * hqw - hq * hw) / determinant;
        (scale != 0.0 && scale.is_finite()).then_some(Self { scale, bias: (hw - scale * hq) / h })
    }
}

/// How much the squared error of each weight of a group counts: as `importance` says, and more for large weights, as in
/// llama.cpp. What is cut off from the few largest ones all has one sign, and costs more than its square.
fn error_weights(weights: &[f32], importance: Option<&[f32]>) -> [f32; MAX_GROUP] {
    let mean_square = weights.iter().map(|weight| weight * weight).sum::<f32>() / weights.len() as f32;
    let mut found = [0.0; MAX_GROUP];
    for (index, (slot, weight)) in found.iter_mut().zip(weights).enumerate() {
        let importance = importance.map_or(1.0, |importance| importance[index]);
        *slot = importance * (mean_square + weight * weight).sqrt();
    }
    found
}

/// The better of `least` and of narrower and wider grids, each fitted to the codes that it gives.
fn search_range(weights: &[f32], importance: &[f32], max: f32, dtype: Dtype, least: Affine) -> Affine {
    let (low, high) = bounds(weights);
    if high <= low {
        return least;
    }
    let (mut best, mut best_error) = (least, least.error(weights, importance, max));
    let [widest, narrowest] = RANGES;
    for step in 0..STEPS {
        let range = widest + (narrowest - widest) * step as f32 / (STEPS - 1) as f32;
        let scale = (high - low) * range / max;
        let start = Affine { scale, bias: (low + high - scale * max) / 2.0 };
        let Some(fitted) = start.refit(weights, importance, max) else { continue };
        let fitted = fitted.refit(weights, importance, max).unwrap_or(fitted).rounded(dtype);
        if fitted.scale == 0.0 {
            continue;
        }
        let error = fitted.error(weights, importance, max);
        if error < best_error {
            (best, best_error) = (fitted, error);
        }
    }
    best
}

/// `x` rounded to the nearest of `0..=max`, ties to even.
#[inline]
fn nearest(x: f32, max: f32) -> f32 {
    // Adding 1.5 · 2²³ leaves no bits for the fraction; unlike a call of `rintf`, it vectorizes everywhere.
    const SHIFT: f32 = 12_582_912.0;
    (x.clamp(0.0, max) + SHIFT) - SHIFT
}

fn bounds(weights: &[f32]) -> (f32, f32) {
    let start = (f32::INFINITY, f32::NEG_INFINITY);
    weights.iter().fold(start, |(low, high), &weight| (low.min(weight), high.max(weight)))
}

#[cfg(test)]
mod tests {
    use mlx_rs::Array;
    use mlx_rs::ops::quantize;

    use super::*;
    use crate::kernels::eval;

    fn weights(rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns).map(|i| ((i * 7919 % 1009) as f32 / 504.0 - 1.0).powi(3) * 0.3).collect()
    }

    #[test]
    fn without_a_search_the_grid_is_that_of_mlx() {
        let values = weights(6, 128);
        let array = Array::from_slice(&values, &[6, 128]);
        for (bits, group) in [(2, 32), (3, 64), (4, 64), (8, 128)] {
            let format = Format::affine(bits, group).unwrap();
            let grid = Grid::fit(&values, 128, format, Dtype::Float32, false, None);
            let (_, scales, biases) = quantize(&array, group as i32, bits as i32).unwrap();
            eval([&scales, &biases]).unwrap();
            for (ours, theirs) in grid.scales.iter().zip(scales.as_slice::<f32>()) {
                assert!((ours - theirs).abs() <= 1e-6 * theirs.abs(), "{ours} {theirs}");
            }
            for (ours, theirs) in grid.biases.iter().zip(biases.as_slice::<f32>()) {
                assert!((ours - theirs).abs() <= 1e-6, "{ours} {theirs}");
            }
        }
    }

    #[test]
    fn a_search_never_loses_and_heeds_importance() {
        let values = weights(8, 64);
        let importance: Vec<f32> = (0..64).map(|i| if i < 8 { 100.0 } else { 1.0 }).collect();
        for bits in [2, 3, 4, 6] {
            let format = Format::affine(bits, 64).unwrap();
            let error = |grid: &Grid, importance: Option<&[f32]>| {
                let error = |(row, weights): (usize, &[f32])| {
                    let error_weights = error_weights(weights, importance);
                    grid.at(row, 0).error(weights, &error_weights[..64], max_code(format))
                };
                values.chunks_exact(64).enumerate().map(error).sum::<f32>()
            };
            let fit =
                |search, importance| Grid::fit(&values, 64, format, Dtype::Bfloat16, search, importance);
            let (plain, searched, weighted) =
                (fit(false, None), fit(true, None), fit(true, Some(&importance[..])));
            let importance = Some(&importance[..]);
            assert!(error(&searched, None) < error(&plain, None), "{bits} bits");
            assert!(error(&weighted, importance) < error(&searched, importance), "{bits} bits");
        }
    }

    #[test]
    fn constant_and_empty_groups_keep_their_values() {
        for value in [0.0_f32, 0.25, -3.0] {
            let values = vec![value; 32];
            let grid = Grid::fit(&values, 32, Format::affine(4, 32).unwrap(), Dtype::Float32, true, None);
            let mut codes = vec![0; 32];
            grid.encode(&values, &mut codes);
            assert!(grid.relative_error(&values, &codes) < 1e-10, "{value}: {grid:?}");
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_code() {
        for (x, code) in [(-3.0, 0.0), (0.5, 0.0), (1.5, 2.0), (2.4, 2.0), (14.6, 15.0), (99.0, 15.0)] {
            assert!((nearest(x, 15.0) - code).abs() < 1e-9, "{x}");
        }
    }
}
