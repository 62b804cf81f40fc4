//! Position embeddings of another grid of patches.

use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};

use crate::Error;
use crate::kernels::matmul::{Transpose, matmul};
use crate::nn::Result;

/// How position embeddings are interpolated; both are bicubic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interpolation {
    /// As transformers: four neighbours, also for a smaller grid.
    #[default]
    HuggingFace,
    /// As `open_clip`: antialiased.
    OpenClip,
}

impl Interpolation {
    /// Returns the method called `name`.
    ///
    /// # Errors
    /// A name other than `huggingface` and `open_clip`.
    pub fn parse(name: &str) -> crate::Result<Self> {
        match name {
            "huggingface" => Ok(Self::HuggingFace),
            "open_clip" => Ok(Self::OpenClip),
            other => Err(Error::Config(format!(
                "interpolation is \"{other}\", expected \"huggingface\" or \"open_clip\""
            ))),
        }
    }

    /// Share of each of `from` numbers in each of `to`: row-major `[to, from]`.
    fn weights(self, from: usize, to: usize) -> Vec<f32> {
        let scale = from as f64 / to as f64;
        let mut weights = vec![0.0_f64; from * to];
        for (i, row) in weights.chunks_exact_mut(from).enumerate() {
            let center = (i as f64 + 0.5) * scale;
            match self {
                Self::HuggingFace => {
                    let first = (center - 0.5).floor();
                    for tap in -1..=2 {
                        let at = first + f64::from(tap);
                        let inside = at.clamp(0.0, (from - 1) as f64) as usize;
                        row[inside] += cubic(center - 0.5 - at, -0.75);
                    }
                }
                Self::OpenClip => {
                    let stretch = scale.max(1.0);
                    let start = (center - 2.0 * stretch + 0.5).max(0.0) as usize;
                    let end = ((center + 2.0 * stretch + 0.5) as usize).min(from);
                    for (j, weight) in row.iter_mut().enumerate().take(end).skip(start) {
                        *weight = cubic((j as f64 - center + 0.5) / stretch, -0.5);
                    }
                    let sum: f64 = row.iter().sum();
                    for weight in row.iter_mut() {
                        *weight /= sum;
                    }
                }
            }
        }
        weights.into_iter().map(|weight| weight as f32).collect()
    }
}

/// The kernel of [Keys](https://doi.org/10.1109/TASSP.1981.1163711) with the parameter `a`.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * a - 4.0 * a
    } else {
        0.0
    }
}

/// `table`: `[extra + from², hidden]`, the position embeddings of a square grid after those of `extra` tokens → those of
/// a grid of `to` by `to`, in the same dtype.
pub(super) fn resize(table: &Array, extra: i32, to: i32, interpolation: Interpolation) -> Result<Array> {
    let (count, hidden) = (table.dim(0) - extra, table.dim(1));
    let from = f64::from(count).sqrt().round() as i32;
    if from == to {
        return Ok(table.clone());
    }
    let weights = interpolation.weights(from as usize, to as usize);
    let weights = Array::from_slice(&weights, &[to, from]);
    let tokens = table.try_index(..extra)?;
    let grid = table.try_index(extra..)?.as_dtype(Dtype::Float32)?;
    // Rows of the grid, then its columns.
    let rows = matmul(&weights, &grid.reshape(&[from, from * hidden])?, Transpose::NONE)?;
    let rows = rows.reshape(&[to, from, hidden])?.swap_axes(0, 1)?.reshape(&[from, to * hidden])?;
    let columns = matmul(&weights, &rows, Transpose::NONE)?.reshape(&[to, to, hidden])?;
    let grid = columns.swap_axes(0, 1)?.reshape(&[to * to, hidden])?.as_dtype(table.dtype())?;
    concatenate(&[tokens, grid], 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.nn.functional.interpolate(torch.arange(4.), size, mode="bicubic", align_corners=False, antialias)` along one
    /// axis, of PyTorch 2.15.
    #[test]
    fn weights_are_those_of_pytorch() {
        let along = |method: Interpolation, to: usize| -> Vec<f32> {
            let weights = method.weights(4, to);
            weights.chunks(4).map(|row| row.iter().zip(0_u8..).map(|(w, i)| w * f32::from(i)).sum()).collect()
        };
        for (method, to, expected) in EXPECTED {
            let found = along(method, to);
            let error = found.iter().zip(expected).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(found.len() == expected.len() && error < 1e-5, "{method:?} {to}: {found:?}");
        }
    }

    const EXPECTED: [(Interpolation, usize, &[f32]); 4] = [
        (Interpolation::HuggingFace, 3, &[0.126_157, 1.5, 2.873_843]),
        (Interpolation::HuggingFace, 6, &[-0.086_806, 0.406_25, 1.212_963, 1.787_037, 2.593_75, 3.086_806]),
        (Interpolation::OpenClip, 3, &[0.189_931, 1.5, 2.810_069]),
        (Interpolation::OpenClip, 6, &[-0.065_789, 0.411_765, 1.166_667, 1.833_333, 2.588_235, 3.065_79]),
    ];
}
