//! AWQ ([Lin et al.](https://arxiv.org/abs/2306.00978)): channels with large activations are scaled up before their
//! weights are rounded, so that their relative error becomes smaller, and scaled down where they come from.
//!
//! The scales of the channels are `m^r`, with the mean magnitude `m` of each and the ratio `r` with the least error of
//! the outputs, `Σ |(round(W·s)/s − W)·x|² / Σ |W·x|²`, over all layers that read them. [`Scaling`] says where they can
//! be moved to.

use std::ops::ControlFlow;

use rayon::prelude::*;

use super::config::QuantizeConfig;
use super::grid::Grid;
use super::plan::Plan;
use crate::calibrate::{Inputs, Matrix, SecondMoments, with_weight};
use crate::kernels::quantized::{Format, Mode};
use crate::models::Model;
use crate::nn::scaling::Scaling;
use crate::progress::Observer;
use crate::{Error, Result};

/// Ratios that are tried: `0, 1/RATIOS, …`
const RATIOS: usize = 20;
/// Rows of each layer on which ratios are compared; the best has to stand on all rows.
const SAMPLED_ROWS: usize = 256;
/// Channels that are hardly ever active are scaled like those of this magnitude.
const LEAST_SCALE: f32 = 1e-4;

/// A layer that reads channels that can be scaled.
struct Consumer<'a> {
    weight: Matrix,
    format: Format,
    moments: &'a SecondMoments,
}

impl<'a> Consumer<'a> {
    /// Reads the layer at `path`; `moments` are those of its inputs.
    ///
    /// # Errors
    /// Weights that are not finite.
    fn read(model: &mut Model, path: &str, format: Format, moments: &'a SecondMoments) -> Result<Self> {
        let weight = with_weight(model, path, |weight| Matrix::read(path, &weight))?;
        Ok(Self { weight, format, moments })
    }

    /// Every row, or some if there are many.
    fn rows(&self, sampled: bool) -> Vec<f32> {
        let Matrix { values, columns, .. } = &self.weight;
        let rows = values.len() / columns;
        let stride = if sampled { rows.div_ceil(SAMPLED_ROWS) } else { 1 };
        values.chunks_exact(*columns).step_by(stride).flatten().copied().collect()
    }

    /// Squared error of the outputs of `rows` if inputs are divided by `scales`.
    fn error(&self, rows: &[f32], scales: &[f32], range_search: bool) -> f64 {
        let Matrix { columns, dtype, .. } = self.weight;
        let mut weights = rows.to_vec();
        for row in weights.chunks_exact_mut(columns) {
            row.iter_mut().zip(scales).for_each(|(weight, scale)| *weight *= scale);
        }
        let squares = self.moments.mean_squares();
        let importance: Vec<f32> =
            squares.iter().zip(scales).map(|(square, scale)| square / (scale * scale)).collect();
        let grid = Grid::fit(&weights, columns, self.format, dtype, range_search, Some(&importance));
        grid.round(&mut weights);
        for (row, original) in weights.chunks_exact_mut(columns).zip(rows.chunks_exact(columns)) {
            for ((weight, scale), original) in row.iter_mut().zip(scales).zip(original) {
                *weight = *weight / scale - original;
            }
        }
        self.moments.squared_outputs(&weights)
    }
}

/// The scales of channels with these mean `magnitudes`.
fn scales(magnitudes: &[f32], ratio: f32) -> Vec<f32> {
    let mut scales: Vec<f32> = magnitudes.iter().map(|x| x.powf(ratio).max(LEAST_SCALE)).collect();
    let bounds = scales.iter().fold((f32::MAX, 0.0_f32), |(low, high), &s| (low.min(s), high.max(s)));
    let middle = (bounds.0 * bounds.1).sqrt();
    for scale in &mut scales {
        *scale /= middle;
    }
    scales
}

/// Returns the scales, of all ratios, with which the outputs of `consumers` are closest to the original ones; `None` if
/// that is without. Channels have these mean `magnitudes`.
fn search(consumers: &[Consumer], magnitudes: &[f32], range_search: bool) -> Option<Vec<f32>> {
    // Layers of large outputs count no more than others; experts count by their tokens.
    let errors = |ratios: &[f32], sampled: bool| -> Vec<f64> {
        let mut sums = vec![0.0; ratios.len()];
        for consumer in consumers {
            let rows = consumer.rows(sampled);
            let outputs = consumer.moments.squared_outputs(&rows);
            if outputs > 0.0 {
                let weight = consumer.moments.tokens() as f64 / outputs;
                let error = |ratio: &f32| consumer.error(&rows, &scales(magnitudes, *ratio), range_search);
                let errors: Vec<f64> = ratios.par_iter().map(error).collect();
                sums.iter_mut().zip(errors).for_each(|(sum, error)| *sum += weight * error);
            }
        }
        sums
    };
    let ratios: Vec<f32> = (0..RATIOS).map(|step| step as f32 / RATIOS as f32).collect();
    let sampled = errors(&ratios, true);
    let best = (1..RATIOS).fold(0, |best, i| if sampled[i] < sampled[best] { i } else { best });
    let [without, with] = errors(&[0.0, ratios[best]], false)[..] else { return None };
    (with < without).then(|| scales(magnitudes, ratios[best]))
}

/// Scales the channels of a block; `inputs` become those of the scaled layers, which are numbered as in `paths`.
///
/// # Errors
/// Inputs or weights that are not finite; errors from MLX; [`Error::Interrupted`].
pub(super) fn scale_channels(
    model: &mut Model,
    scalings: &[Scaling],
    paths: &[String],
    inputs: &mut Inputs,
    plan: &Plan,
    config: &QuantizeConfig,
    observer: &mut dyn Observer,
) -> Result<()> {
    for scaling in scalings {
        let is_consumer = |&layer: &usize| scaling.consumers.contains(&paths[layer]);
        let mut consumers = Vec::new();
        for (layers, moments) in inputs.iter() {
            let paths = layers.iter().filter(|layer| is_consumer(layer)).map(|&layer| &paths[layer]);
            for (path, format) in paths.map(|path| (path, plan.formats[path])) {
                // Others are scaled too, but have no scale to fit.
                if format.mode() == Mode::Affine {
                    consumers.push(Consumer::read(model, path, format, moments)?);
                }
            }
        }
        let observed = || inputs.iter().filter(|(layers, _)| layers.iter().any(&is_consumer));
        let magnitudes = magnitudes(scaling, observed().map(|(_, moments)| moments));
        if magnitudes.iter().any(|x| !x.is_finite()) {
            let path = &scaling.consumers[0];
            let message = format!("{path}: its inputs are not finite on the calibration text");
            return Err(Error::ModelLoading(message));
        }
        if let Some(scales) = search(&consumers, &magnitudes, config.range_search) {
            let factors = scaling.fold(model, &scales)?;
            let scaled = inputs.iter_mut().filter(|(layers, _)| layers.iter().any(is_consumer));
            scaled.for_each(|(_, moments)| moments.divide(&factors));
        }
        if observer.poll() == ControlFlow::Break(()) {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

/// Mean magnitudes of the channels of `scaling` over all `inputs`.
fn magnitudes<'a>(scaling: &Scaling, inputs: impl Iterator<Item = &'a SecondMoments>) -> Vec<f32> {
    let (mut sum, mut tokens) = (Vec::new(), 0);
    for moments in inputs {
        sum.resize(moments.len(), 0.0_f32);
        sum.iter_mut().zip(moments.magnitudes()).for_each(|(sum, x)| *sum += x);
        tokens += moments.tokens();
    }
    for sum in &mut sum {
        *sum /= tokens.max(1) as f32;
    }
    scaling.shared(&sum)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use mlx_rs::{Array, Dtype};

    use super::*;
    use crate::calibrate::observe;
    use crate::io::tensors;
    use crate::kernels;
    use crate::progress::Silent;
    use crate::quantize::block::quantize_block;
    use crate::quantize::config::Technique;
    use crate::quantize::importance::Importance;
    use crate::quantize::test_models::{configurations, model};

    fn host(x: &Array) -> Vec<f32> {
        kernels::eval([x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    #[test]
    fn losses_and_scales_are_those_of_mlx_lm() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures/quantize/awq.safetensors");
        let fixture = tensors::read(&path).unwrap();
        let [weight, x, losses, expected] =
            ["weight", "x", "losses", "scales"].map(|name| host(&fixture[name]));
        let (rows, columns) = (fixture["weight"].dim(0) as usize, fixture["weight"].dim(1) as usize);
        let mut moments = SecondMoments::new(columns);
        moments.add(&fixture["x"]).unwrap();
        let weight = Matrix { values: weight, columns, dtype: Dtype::Float32 };
        let consumer = Consumer { weight, format: Format::affine(3, 64).unwrap(), moments: &moments };
        let scaling = Scaling::between("", (0..columns).collect(), "");
        let magnitudes = magnitudes(&scaling, [&moments].into_iter());
        let outputs = (x.len() / columns * rows) as f64;
        assert_eq!(losses.len(), RATIOS);
        for (step, &loss) in losses.iter().enumerate() {
            let scales = scales(&magnitudes, step as f32 / RATIOS as f32);
            let ours = consumer.error(&consumer.rows(false), &scales, false) / outputs;
            assert!((ours - f64::from(loss)).abs() <= 1e-3 * f64::from(loss), "{step}: {ours} {loss}");
        }
        let found = search(&[consumer], &magnitudes, false).unwrap();
        for (ours, theirs) in found.iter().zip(&expected) {
            assert!((ours - theirs).abs() <= 1e-5 * theirs, "{ours} {theirs}");
        }
    }

    fn config(technique: Technique) -> QuantizeConfig {
        QuantizeConfig { technique, bits: 3, group_size: 32, ..QuantizeConfig::default() }
    }

    #[test]
    fn layers_of_every_structure_are_closer_than_rounded_to_nearest() {
        for json in configurations() {
            let (mut model, stream) = model(&json);
            let config = config(Technique::Awq);
            let plan = Plan::new(model.as_mut(), &config).unwrap();
            let paths = plan.layers_of(&model.block_path(0));
            let inputs = observe(&stream, model.as_mut(), &paths, &mut Silent).unwrap();
            let mut scaled = 0;
            for scaling in model.scalings(0) {
                let (mut consumers, mut observed) = (Vec::new(), Vec::new());
                for (layers, moments) in &inputs {
                    for path in layers.iter().map(|&layer| &paths[layer]) {
                        if scaling.consumers.contains(path) {
                            let format = plan.formats[path];
                            consumers.push(Consumer::read(model.as_mut(), path, format, moments).unwrap());
                            observed.push(moments);
                        }
                    }
                }
                let means = magnitudes(&scaling, observed.into_iter());
                let Some(found) = search(&consumers, &means, true) else { continue };
                let error = |scales: &[f32]| -> f64 {
                    let relative = |consumer: &Consumer| {
                        let rows = consumer.rows(false);
                        let outputs = consumer.moments.squared_outputs(&rows);
                        consumer.moments.tokens() as f64 * consumer.error(&rows, scales, true) / outputs
                    };
                    consumers.iter().map(relative).sum()
                };
                let [rtn, awq] = [&vec![1.0; found.len()], &found].map(|scales| error(scales));
                assert!(awq < rtn, "{scaling:?}: {awq} {rtn}");
                scaled += 1;
            }
            assert!(scaled > 0, "{}", json["model_type"]);
        }
    }

    #[test]
    fn the_inputs_of_scaled_layers_are_known_without_another_pass() {
        for json in configurations() {
            let (mut model, stream) = model(&json);
            let config = config(Technique::Awq);
            let plan = Plan::new(model.as_mut(), &config).unwrap();
            let paths = plan.layers_of(&model.block_path(0));
            let mut inputs = observe(&stream, model.as_mut(), &paths, &mut Silent).unwrap();
            let original = inputs.clone();
            let scalings = model.scalings(0);
            scale_channels(model.as_mut(), &scalings, &paths, &mut inputs, &plan, &config, &mut Silent)
                .unwrap();
            let again = observe(&stream, model.as_mut(), &paths, &mut Silent).unwrap();
            let squares = |inputs: &Inputs| -> Vec<f32> {
                inputs.values().flat_map(SecondMoments::mean_squares).collect()
            };
            for (ours, expected) in squares(&inputs).iter().zip(squares(&again)) {
                assert!(
                    (ours - expected).abs() <= 1e-3 * expected,
                    "{}: {ours} {expected}",
                    json["model_type"]
                );
            }
            assert_ne!(squares(&original), squares(&again), "{}", json["model_type"]);
        }
    }

    #[test]
    fn inputs_that_are_not_finite_are_named() {
        let (mut model, stream) = model(&configurations()[0]);
        for (name, parameter) in model.parameters_mut().flatten().into_iter().collect::<BTreeMap<_, _>>() {
            if &*name == "model.layers.0.input_layernorm.weight" {
                *parameter = parameter.multiply(Array::from_f32(f32::NAN)).unwrap();
            }
        }
        let config = config(Technique::Awq);
        let plan = Plan::new(model.as_mut(), &config).unwrap();
        let error =
            quantize_block(model.as_mut(), &stream, &plan, &config, &mut Importance::default(), &mut Silent)
                .unwrap_err()
                .to_string();
        assert!(error.contains("layers.0.self_attn.q_proj") && error.contains("not finite"), "{error}");
    }

    #[test]
    fn channels_that_are_never_active_are_left_alone() {
        let found = scales(&[0.0, 1.0, 4.0], 0.5);
        assert!(found.iter().all(|scale| scale.is_finite() && *scale > 0.0), "{found:?}");
        assert_eq!(scales(&[0.0, 1.0, 4.0], 0.0), [1.0; 3]);
    }
}
