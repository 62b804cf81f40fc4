//! Rounding to nearest.

use super::grid::Grid;
use super::layer::{round_as_mlx, store};
use super::report::LayerReport;
use crate::Result;
use crate::calibrate::Matrix;
use crate::kernels::quantized::{Format, Mode};
use crate::nn::quantized::WeightMut;

/// Rounds the weight at `path` to the nearest values of `format`. With `search` and an `importance` of each column,
/// ranges are those of the least squared error, in which a column counts as much as its importance says; otherwise
/// affine formats are those of MLX bit for bit. Where nothing tells what errors cost, a range without the largest weights
/// has a smaller error and predicts worse.
///
/// # Errors
/// Weights that are not finite; errors from MLX.
pub(super) fn rtn(
    path: &str,
    weight: WeightMut,
    format: Format,
    search: bool,
    importance: Option<&[f32]>,
) -> Result<LayerReport> {
    let Some(importance) = importance.filter(|_| search && format.mode() == Mode::Affine) else {
        let error = round_as_mlx(path, weight, format)?;
        return Ok(LayerReport::new(path, format, "rtn", error));
    };
    let Matrix { values, columns, dtype } = Matrix::read(path, &weight)?;
    let grid = Grid::fit(&values, columns, format, dtype, true, Some(importance));
    let mut codes = vec![0; values.len()];
    grid.encode(&values, &mut codes);
    store(weight, &grid, &codes, dtype)?;
    Ok(LayerReport::new(path, format, "rtn", grid.relative_error(&values, &codes)))
}
