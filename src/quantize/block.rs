//! Quantizing one block on calibration text.

use std::collections::BTreeSet;

use super::awq::scale_channels;
use super::config::{QuantizeConfig, Technique};
use super::gptq::{Settings, gptq};
use super::grid::Grid;
use super::importance::Importance;
use super::layer::store;
use super::plan::Plan;
use super::report::LayerReport;
use super::rtn::rtn;
use super::smoothquant::smooth;
use super::stages::stages;
use crate::calibrate::{BlockStream, Matrix, SecondMoments, observe, with_weight};
use crate::kernels::quantized::{Format, Mode};
use crate::models::Model;
use crate::nn::quantized::WeightMut;
use crate::progress::Observer;
use crate::{Error, Result};

/// Quantizes the layers of the block that `stream` is in front of, and adds what they saw to `importance`.
///
/// # Errors
/// A layer that cannot be quantized, by key path; errors from MLX; [`Error::Interrupted`].
pub(super) fn quantize_block(
    model: &mut Model,
    stream: &BlockStream,
    plan: &Plan,
    config: &QuantizeConfig,
    importance: &mut Importance,
    observer: &mut dyn Observer,
) -> Result<Vec<LayerReport>> {
    let paths = plan.layers_of(&model.block_path(stream.block()));
    let smoothed = match config.smooth_alpha {
        Some(alpha) => smooth(model, stream, &paths, alpha, observer)?,
        None => BTreeSet::new(),
    };
    let stages = if config.true_sequential && config.layer_technique() == Technique::Gptq {
        stages(stream, model, &paths, observer)?
    } else {
        vec![paths]
    };
    let mut reports = Vec::new();
    for paths in stages {
        let mut inputs = observe(stream, model, &paths, observer)?;
        for (layers, moments) in inputs.iter().filter(|(_, moments)| !moments.is_empty()) {
            for &layer in layers {
                importance.insert(&paths[layer], &moments.mean_squares());
            }
        }
        if config.layer_technique() == Technique::Awq {
            let scalings = model.scalings(stream.block());
            scale_channels(model, &scalings, &paths, &mut inputs, plan, config, observer)?;
        }
        let mut of_layer: Vec<Option<&SecondMoments>> = vec![None; paths.len()];
        for (layers, moments) in &inputs {
            for &layer in layers {
                of_layer[layer] = Some(moments);
            }
        }
        for (path, moments) in paths.iter().zip(of_layer) {
            let format = plan.formats[path];
            let mut report =
                with_weight(model, path, |weight| quantize_layer(path, weight, format, moments, config))?;
            if smoothed.contains(path) {
                report.technique = format!("smoothquant, {}", report.technique);
            }
            reports.push(report);
        }
    }
    Ok(reports)
}

/// Quantizes one layer, whose inputs had these `moments`.
///
/// # Errors
/// As [`quantize_block`].
pub(super) fn quantize_layer(
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
    let scaled = config.layer_technique() == Technique::Awq;
    if !config.rounds_by_gptq() || format.mode() != Mode::Affine {
        let report = rtn(path, weight, format, config.range_search, Some(&importance))?;
        let technique = if scaled { "awq".to_owned() } else { report.technique };
        return Ok(LayerReport { technique, tokens, ..report });
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
    let technique = if scaled { "awq, gptq" } else { "gptq" };
    let report = LayerReport::new(path, format, technique, grid.relative_error(&values, &rounded.codes));
    Ok(LayerReport { tokens, damping: Some(rounded.damping), ..report })
}

#[cfg(test)]
mod tests {
    use mlx_rs::Array;

    use super::*;
    use crate::kernels;
    use crate::progress::Silent;
    use crate::quantize::test_models::{configurations, model};

    /// Quantizes the first block in 3 bits; returns what it did, the importance of all layers, and the squared error of
    /// the outputs.
    fn quantized(technique: Technique, awq_rounding: Technique) -> (Vec<LayerReport>, Vec<Vec<f32>>, f32) {
        let (mut model, stream) = model(&configurations()[0]);
        let config = QuantizeConfig {
            technique,
            awq_rounding,
            bits: 3,
            group_size: 32,
            true_sequential: false,
            ..QuantizeConfig::default()
        };
        let plan = Plan::new(model.as_mut(), &config).unwrap();
        let outputs = |model: &Model| -> Vec<f32> {
            let of_batch = |x: &Array| {
                let y = model.apply_block(0, x).unwrap();
                kernels::eval([&y]).unwrap();
                y.as_slice::<f32>().to_vec()
            };
            stream.batches().iter().flat_map(of_batch).collect()
        };
        let original = outputs(model.as_ref());
        let mut importance = Importance::default();
        let reports =
            quantize_block(model.as_mut(), &stream, &plan, &config, &mut importance, &mut Silent).unwrap();
        let error = outputs(model.as_ref()).iter().zip(&original).map(|(y, old)| (y - old).powi(2)).sum();
        let columns = |path: &str| if path.ends_with("down_proj") { 96 } else { 64 };
        let of = |layer: &LayerReport| importance.of(&layer.path, columns(&layer.path)).unwrap().unwrap();
        let importance = reports.iter().map(of).collect();
        (reports, importance, error)
    }

    #[test]
    fn importance_is_that_of_the_original_inputs() {
        let [plain, scaled] = [Technique::Rtn, Technique::Awq].map(|t| quantized(t, Technique::Rtn).1);
        assert_eq!(plain, scaled);
    }

    #[test]
    fn gptq_rounds_what_awq_has_scaled() {
        let (reports, _, nearest) = quantized(Technique::Awq, Technique::Rtn);
        assert!(reports.iter().all(|layer| layer.technique == "awq"), "{reports:?}");
        let (reports, _, compensated) = quantized(Technique::Awq, Technique::Gptq);
        assert!(reports.iter().all(|layer| layer.technique == "awq, gptq"), "{reports:?}");
        assert!(compensated < 0.9 * nearest, "{compensated} {nearest}");
    }
}
