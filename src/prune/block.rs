//! Pruning one block on calibration text.

use mlx_rs::Array;

use super::config::{PruneConfig, Repair};
use super::magnitude::magnitude;
use super::mask::{Mask, apply, by_matrix};
use super::method::Method;
use super::plan::Plan;
use super::random::random;
use super::reconstruction::{least_squares, scale_rows};
use super::report::LayerReport;
use super::sparsegpt::sparsegpt;
use super::taylor::Importance;
use super::wanda::wanda;
use crate::calibrate::{BlockStream, InverseFactor, Matrix, SecondMoments, observe, with_weight};
use crate::models::Model;
use crate::nn::quantized::WeightMut;
use crate::progress::Observer;
use crate::{Error, Result, kernels};

/// Prunes the layers of the block that `stream` is in front of, by their `importance` where the method needs it.
///
/// # Errors
/// A layer that cannot be pruned, by key path; errors from MLX; [`Error::Interrupted`].
pub(super) fn prune_block(
    model: &mut Model,
    stream: &BlockStream,
    plan: &Plan,
    config: &PruneConfig,
    importance: Option<&Importance>,
    observer: &mut dyn Observer,
) -> Result<Vec<LayerReport>> {
    let paths = plan.layers_of(&model.block_path(stream.block()));
    let inputs = observe(stream, model, &paths, observer)?;
    let mut reports: Vec<Option<LayerReport>> = vec![None; paths.len()];
    for (layers, moments) in inputs.iter().filter(|(_, moments)| !moments.is_empty()) {
        let factor = factor(moments, config).map_err(|error| named(error, &paths[layers[0]]))?;
        for &layer in layers {
            let path = &paths[layer];
            let calibration = Calibration {
                moments,
                factor: factor.as_ref(),
                importance: importance.map(|importance| importance[path].as_slice()),
            };
            reports[layer] = Some(with_weight(model, path, |mut weight| {
                prune_layer(path, &mut weight, Some(calibration), plan.sparsity[path], config)
            })?);
        }
    }
    for (path, report) in paths.iter().zip(&mut reports).filter(|(_, report)| report.is_none()) {
        // An expert that no token was sent to.
        *report = Some(with_weight(model, path, |mut weight| {
            prune_layer(path, &mut weight, None, plan.sparsity[path], config)
        })?);
    }
    Ok(reports.into_iter().flatten().collect())
}

/// What is known of the inputs of a layer.
#[derive(Clone, Copy)]
pub(super) struct Calibration<'a> {
    moments: &'a SecondMoments,
    /// Where the method needs it.
    factor: Option<&'a InverseFactor>,
    /// Of every weight, where the method needs it.
    importance: Option<&'a [f32]>,
}

fn factor(moments: &SecondMoments, config: &PruneConfig) -> Result<Option<InverseFactor>> {
    let needed = matches!(config.method(), Method::SparseGpt | Method::Auto);
    needed.then(|| InverseFactor::new(moments, config.act_order, config.damping)).transpose()
}

/// Prunes one layer; without `calibration`, by magnitude.
///
/// # Errors
/// Weights that are not finite; errors from MLX.
pub(super) fn prune_layer(
    path: &str,
    weight: &mut WeightMut,
    calibration: Option<Calibration>,
    sparsity: f64,
    config: &PruneConfig,
) -> Result<LayerReport> {
    let Matrix { values: original, columns, dtype } = Matrix::read(path, weight)?;
    let layer = Layer { path, original: &original, columns, calibration, sparsity, config };
    let candidates: Vec<Method> = match (config.method(), calibration) {
        (Method::Auto, Some(_)) => vec![Method::SparseGpt, Method::Wanda, Method::Magnitude],
        (Method::Random, _) => vec![Method::Random],
        (_, None) => vec![Method::Magnitude],
        (method, _) => vec![method],
    };
    let mut best: Option<(Method, Vec<f32>, Option<f64>)> = None;
    for method in candidates {
        let pruned = layer.prune(method);
        let error = calibration.map(|known| output_error(&original, &pruned, known.moments));
        if best.as_ref().is_none_or(|(.., least)| error < *least) {
            best = Some((method, pruned, error));
        }
    }
    let Some((method, pruned, output_error)) = best else {
        return Err(Error::Config(format!("{path}: there is no method to choose from")));
    };
    let zeros = pruned.iter().filter(|&&weight| weight == 0.0).count();
    let shape = [(original.len() / columns) as i32, columns as i32];
    let array = Array::from_slice(&pruned, &shape).as_dtype(dtype)?;
    kernels::eval([&array])?;
    *weight.weight = array;
    Ok(LayerReport {
        path: path.to_owned(),
        method: method.name().to_owned(),
        sparsity: zeros as f64 / original.len() as f64,
        output_error,
        tokens: calibration.map_or(0, |known| known.moments.tokens()),
    })
}

/// A layer to prune.
struct Layer<'a> {
    path: &'a str,
    /// `[rows, columns]`
    original: &'a [f32],
    columns: usize,
    calibration: Option<Calibration<'a>>,
    sparsity: f64,
    config: &'a PruneConfig,
}

impl Layer<'_> {
    /// The weights after pruning and repair.
    fn prune(&self, method: Method) -> Vec<f32> {
        let Self { path, original, columns, calibration, sparsity, config } = *self;
        let rows = original.len() / columns;
        let mut pruned = original.to_vec();
        let mask: Mask = match (method, calibration) {
            (Method::SparseGpt, Some(Calibration { factor: Some(factor), .. })) => {
                sparsegpt(&mut pruned, factor, config.pattern, sparsity)
            }
            (Method::Wanda, Some(known)) => wanda(original, known.moments, config.pattern, sparsity),
            (Method::Taylor, Some(Calibration { importance: Some(importance), .. })) => {
                by_matrix(importance, columns, config.pattern, sparsity)
            }
            (Method::Random, _) => random(path, (rows, columns), config.pattern, sparsity, config.seed),
            _ => magnitude(original, columns, config.pattern, sparsity),
        };
        apply(&mut pruned, &mask);
        match (config.repair, calibration) {
            (Repair::LeastSquares, Some(known)) => least_squares(&mut pruned, original, &mask, known.moments),
            (Repair::Scale, Some(known)) => scale_rows(&mut pruned, original, known.moments),
            _ => {}
        }
        pruned
    }
}

/// Squared error of the outputs relative to their squares.
pub(super) fn output_error(original: &[f32], pruned: &[f32], moments: &SecondMoments) -> f64 {
    let difference: Vec<f32> = original.iter().zip(pruned).map(|(old, new)| old - new).collect();
    let squares = moments.squared_outputs(original);
    if squares > 0.0 { moments.squared_outputs(&difference) / squares } else { 0.0 }
}

fn named(error: Error, path: &str) -> Error {
    match error {
        Error::ModelLoading(why) => Error::ModelLoading(format!("{path}: {why}")),
        Error::Training(why) => Error::Training(format!("{path}: {why}")),
        other => other,
    }
}
