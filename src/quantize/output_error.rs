//! The squared error of the output of a layer whose weight is rounded to each of several formats.

use mlx_rs::{Array, Dtype};

use super::config::QuantizeConfig;
use super::gptq::{Factor, Settings};
use super::grid::Grid;
use crate::calibrate::{Matrix, SecondMoments};
use crate::kernels::quantized::{Format, Mode, PackedWeight, dequantize, quantize};
use crate::nn::quantized::WeightMut;
use crate::{Result, kernels};

/// Weights of a layer that are rounded to nearest to compare formats.
const MAX_WEIGHTS: i32 = 1 << 22;

/// Squared errors of the output of the layer at `path` in each of `formats`, rounded as `config` says.
///
/// # Errors
/// Weights that are not finite; errors from MLX.
pub(super) fn output_errors(
    path: &str,
    weight: &WeightMut,
    formats: &[Format],
    moments: Option<&SecondMoments>,
    config: &QuantizeConfig,
) -> Result<Vec<f64>> {
    let importance = moments.map(SecondMoments::mean_squares);
    let (search, importance) = (config.range_search && importance.is_some(), importance.as_deref());
    let settings = Settings { damping: config.damping, act_order: config.act_order };
    if config.rounds_by_gptq()
        && let Some(factor) = moments.and_then(|moments| Factor::new(moments, settings).ok())
    {
        let Matrix { values, columns, dtype } = Matrix::read(path, weight)?;
        let fit = |&format: &Format| Grid::fit(&values, columns, format, dtype, search, importance);
        return Ok(formats.iter().map(|format| factor.round(&values, &fit(format)).1).collect());
    }
    formats.iter().map(|&format| rounding_error(weight.weight, format, search, importance)).collect()
}

/// Squared error of `weight`, `[rows, columns]`, rounded to `format`; errors of a column count as much as `importance`
/// says. Large weights are judged by some of their rows.
fn rounding_error(weight: &Array, format: Format, search: bool, importance: Option<&[f32]>) -> Result<f64> {
    let (rows, columns) = (weight.dim(0), weight.dim(1));
    let step = (i64::from(rows) * i64::from(columns) / i64::from(MAX_WEIGHTS)).max(1) as usize;
    let chosen: Vec<i32> = (0..rows).step_by(step).collect();
    let sample = match step {
        1 => weight.clone(),
        _ => weight.take_axis(Array::from_slice(&chosen, &[chosen.len() as i32]), 0)?,
    };
    let wide = sample.as_dtype(Dtype::Float32)?.contiguous()?;
    if format.mode() == Mode::Affine {
        kernels::eval([&wide])?;
        let values = wide.as_slice::<f32>();
        let grid = Grid::fit(values, columns as usize, format, weight.dtype(), search, importance);
        return Ok(grid.rounding_error(values, importance));
    }
    let (codes, scales, biases) = quantize(&sample, format)?;
    let packed = PackedWeight { codes: &codes, scales: &scales, biases: biases.as_ref(), format };
    let mut squares = dequantize(packed, Dtype::Float32)?.subtract(wide)?.square()?;
    if let Some(importance) = importance {
        squares = squares.multiply(Array::from_slice(importance, &[columns]))?;
    }
    let sum = squares.sum(None)?;
    kernels::eval([&sum])?;
    Ok(f64::from(sum.item_exact::<f32>()))
}
