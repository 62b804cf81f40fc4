//! Quantizing one block on calibration text.

use std::collections::BTreeMap;

use super::config::{QuantizeConfig, Technique};
use super::gptq::{Settings, gptq};
use super::grid::Grid;
use super::layer::{Matrix, store, with_weight};
use super::plan::Plan;
use super::report::LayerReport;
use super::rtn::rtn;
use super::stages::stages;
use crate::calibrate::{BlockStream, Input, SecondMoments};
use crate::kernels::quantized::{Format, Mode};
use crate::models::Model;
use crate::nn::quantized::WeightMut;
use crate::progress::Observer;
use crate::{Error, Result};

/// Quantizes the layers of the block that `stream` is in front of.
///
/// # Errors
/// A layer that cannot be quantized, by key path; errors from MLX; [`Error::Interrupted`].
pub(super) fn quantize_block(
    model: &mut Model,
    stream: &BlockStream,
    plan: &Plan,
    config: &QuantizeConfig,
    observer: &mut dyn Observer,
) -> Result<Vec<LayerReport>> {
    let paths = plan.layers_of(&model.block_path(stream.block()));
    let stages = if config.true_sequential && config.rounding() == Technique::Gptq {
        stages(stream, model, &paths, observer)?
    } else {
        vec![paths]
    };
    let mut reports = Vec::new();
    for paths in stages {
        let inputs = observe(stream, model, &paths, observer)?;
        let mut of_layer: Vec<Option<&SecondMoments>> = vec![None; paths.len()];
        for (layers, moments) in &inputs {
            for &layer in layers {
                of_layer[layer] = Some(moments);
            }
        }
        for (path, moments) in paths.iter().zip(of_layer) {
            let format = plan.formats[path];
            let report =
                with_weight(model, path, |weight| quantize_layer(path, weight, format, moments, config))?;
            reports.push(report);
        }
    }
    Ok(reports)
}

/// Second moments of every input of the layers at `paths`, by the indices of the layers that read it.
fn observe(
    stream: &BlockStream,
    model: &mut Model,
    paths: &[String],
    observer: &mut dyn Observer,
) -> Result<BTreeMap<Vec<usize>, SecondMoments>> {
    let mut inputs: BTreeMap<Vec<usize>, SecondMoments> = BTreeMap::new();
    stream.observe(model, paths, observer, &mut |Input { layers, x }| {
        let new = || SecondMoments::new(x.dim(-1) as usize);
        inputs.entry(layers.to_vec()).or_insert_with(new).add(x)
    })?;
    Ok(inputs)
}

fn quantize_layer(
    path: &str,
    weight: WeightMut,
    format: Format,
    moments: Option<&SecondMoments>,
    config: &QuantizeConfig,
) -> Result<LayerReport> {
    // An expert that no token was sent to, or a format without a scale to fit.
    let Some(moments) = moments.filter(|moments| !moments.is_empty()) else {
        return rtn(path, weight, format, config.range_search, None);
    };
    let (tokens, importance) = (moments.tokens(), moments.mean_squares());
    if config.rounding() == Technique::Rtn || format.mode() != Mode::Affine {
        let report = rtn(path, weight, format, config.range_search, Some(&importance))?;
        return Ok(LayerReport { tokens, ..report });
    }
    let Matrix { values, columns, dtype } = Matrix::read(path, &weight)?;
    let grid = Grid::fit(&values, columns, format, dtype, config.range_search, Some(&importance));
    let settings = Settings { damping: config.damping, act_order: config.act_order };
    let rounded = gptq(&values, &grid, moments, settings).map_err(|error| match error {
        Error::ModelLoading(why) => Error::ModelLoading(format!("{path}: {why}")),
        Error::Training(why) => Error::Training(format!("{path}: {why}")),
        other => other,
    })?;
    if rounded.damping > config.damping {
        log::warn!(
            "{path}: damping raised to {:.0e}, for more calibration text would be needed",
            rounded.damping
        );
    }
    store(weight, &grid, &rounded.codes, dtype)?;
    let report = LayerReport::new(path, format, "gptq", grid.relative_error(&values, &rounded.codes));
    Ok(LayerReport { tokens, damping: Some(rounded.damping), ..report })
}
