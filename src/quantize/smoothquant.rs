//! SmoothQuant ([Xiao et al.](https://arxiv.org/abs/2211.10438)): outliers among the channels of activations are moved
//! into the weights, so that less is lost when activations are quantized at run time. Channel `j` of the inputs `X` of
//! the layers `W` is divided by
//!
//! ```text
//! s_j = max|X_j|^α / max|W_j|^(1−α)
//! ```
//!
//! where it comes from, and the weights that read it are multiplied by the same. The maxima are over all calibration
//! tokens, and over all quantized layers that read the channel. [`Scaling`] says which channels can be scaled.

use std::collections::{BTreeMap, BTreeSet};

use mlx_rs::{Array, Dtype};

use crate::calibrate::{BlockStream, Input, Matrix, with_weight};
use crate::models::Model;
use crate::nn::scaling::Scaling;
use crate::progress::Observer;
use crate::{Error, Result, kernels};

/// Largest magnitudes of the channels of each input, by the numbers of the layers that read it.
type Maxima = BTreeMap<Vec<usize>, Vec<f32>>;

/// Scales the channels of the block that `stream` is in front of, whose quantized layers are at `paths`. Returns those
/// whose inputs are scaled.
///
/// # Errors
/// Inputs or weights that are not finite; errors from MLX; [`Error::Interrupted`].
pub(super) fn smooth(
    model: &mut Model,
    stream: &BlockStream,
    paths: &[String],
    alpha: f64,
    observer: &mut dyn Observer,
) -> Result<BTreeSet<String>> {
    let inputs = observe_maxima(stream, model, paths, observer)?;
    let mut smoothed = BTreeSet::new();
    for scaling in model.scalings(stream.block()) {
        let is_reader = |layer: &usize| scaling.consumers.contains(&paths[*layer]);
        let observed = inputs.iter().filter(|(layers, _)| layers.iter().any(is_reader));
        let Some(x) = observed.map(|(_, maxima)| maxima.clone()).reduce(larger) else { continue };
        if x.iter().any(|x| !x.is_finite()) {
            let path = &scaling.consumers[0];
            return Err(Error::ModelLoading(format!(
                "{path}: its inputs are not finite on the calibration text"
            )));
        }
        let mut w = vec![0.0; x.len()];
        for path in paths.iter().filter(|path| scaling.consumers.contains(path)) {
            let weight = with_weight(model, path, |weight| Matrix::read(path, &weight))?;
            for row in weight.values.chunks_exact(weight.columns) {
                w = larger(w, row.iter().map(|x| x.abs()).collect());
            }
            smoothed.insert(path.clone());
        }
        scaling.fold(model, &scales(&scaling, &x, &w, alpha))?;
    }
    Ok(smoothed)
}

/// `s`, of channels with these `maxima` of inputs and weights.
fn scales(scaling: &Scaling, x: &[f32], w: &[f32], alpha: f64) -> Vec<f32> {
    let [x, w] = [x, w].map(|maxima| scaling.shared_maxima(maxima));
    let scale = |(x, w): (f32, f32)| {
        let scale = (f64::from(x).powf(alpha) / f64::from(w).powf(1.0 - alpha)) as f32;
        // A channel that is always zero, or that no weight reads, has no range to share.
        if scale.is_normal() { scale } else { 1.0 }
    };
    x.into_iter().zip(w).map(scale).collect()
}

fn observe_maxima(
    stream: &BlockStream,
    model: &mut Model,
    paths: &[String],
    observer: &mut dyn Observer,
) -> Result<Maxima> {
    let mut inputs = Maxima::new();
    stream.observe(model, paths, observer, &mut |Input { layers, x }| {
        if x.size() > 0 {
            let found = maxima(x)?;
            let all = inputs.remove(layers).map_or_else(|| found.clone(), |all| larger(all, found.clone()));
            inputs.insert(layers.to_vec(), all);
        }
        Ok(())
    })?;
    Ok(inputs)
}

/// `max |x|` of each channel of `x`, `[..., channels]`.
fn maxima(x: &Array) -> Result<Vec<f32>> {
    let x = x.reshape(&[-1, x.dim(-1)])?.abs()?.max_axis(0, false)?.as_dtype(Dtype::Float32)?;
    kernels::eval([&x])?;
    Ok(x.as_slice::<f32>().to_vec())
}

/// The larger of two numbers at each place; NaN where one is.
fn larger(mut a: Vec<f32>, b: Vec<f32>) -> Vec<f32> {
    for (a, b) in a.iter_mut().zip(b) {
        *a = if b > *a || b.is_nan() { b } else { *a };
    }
    a
}

#[cfg(test)]
mod tests {
    use mlx_rs::module::ModuleParameters as _;

    use super::*;
    use crate::nn::scaling::Producer;
    use crate::params::Tensors;
    use crate::progress::Silent;
    use crate::quantize::config::{QuantizeConfig, Technique};
    use crate::quantize::plan::Plan;
    use crate::quantize::test_models::{configurations, model};

    const ALPHA: f64 = 0.7;

    fn host(x: &Array) -> Vec<f32> {
        let x = x.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap();
        kernels::eval([&x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    fn parameters(model: &Model) -> Tensors {
        model.parameters().flatten().into_iter().map(|(name, x)| (name.to_string(), x.clone())).collect()
    }

    fn paths(model: &mut Model) -> Vec<String> {
        let config =
            QuantizeConfig { technique: Technique::Rtn, group_size: 32, ..QuantizeConfig::default() };
        let block = model.block_path(0);
        Plan::new(model, &config).unwrap().layers_of(&block)
    }

    /// Largest magnitudes of the columns of all `rows`, in f64.
    fn largest(rows: &[Vec<f32>], columns: usize) -> Vec<f64> {
        let mut largest = vec![0.0_f64; columns];
        for row in rows.iter().flat_map(|rows| rows.chunks_exact(columns)) {
            largest.iter_mut().zip(row).for_each(|(most, &x)| *most = most.max(f64::from(x).abs()));
        }
        largest
    }

    #[test]
    fn norms_and_weights_are_those_of_the_formula() {
        let (mut model, stream) = model(&configurations()[0]);
        let paths = paths(model.as_mut());
        let mut seen: BTreeMap<String, Vec<Vec<f32>>> = BTreeMap::new();
        stream
            .observe(model.as_mut(), &paths, &mut Silent, &mut |Input { layers, x }| {
                for &layer in layers {
                    seen.entry(paths[layer].clone()).or_default().push(host(x));
                }
                Ok(())
            })
            .unwrap();
        let before = parameters(model.as_ref());
        let smoothed = smooth(model.as_mut(), &stream, &paths, ALPHA, &mut Silent).unwrap();
        assert_eq!(smoothed, paths.iter().cloned().collect());
        let after = parameters(model.as_ref());
        let of = |tensors: &Tensors, path: &str| host(&tensors[&format!("{path}.weight")]);
        for scaling in model.scalings(0) {
            // What a scaling before it did to the rows of its producer cancels in the ratio.
            let columns = before[&format!("{}.weight", scaling.consumers[0])].dim(1) as usize;
            let x = largest(&seen[&scaling.consumers[0]], columns);
            let weights: Vec<Vec<f32>> =
                scaling.consumers.iter().map(|consumer| of(&before, consumer)).collect();
            let w = largest(&weights, columns);
            let group = |j: usize| match &scaling.producer {
                Producer::Norm { .. } => vec![j],
                Producer::Linear { rows, .. } => (0..columns).filter(|&i| rows[i] == rows[j]).collect(),
            };
            let most = |of: &[f64], j| group(j).into_iter().map(|i| of[i]).fold(0.0, f64::max);
            let scale = |j| most(&x, j).powf(ALPHA) / most(&w, j).powf(1.0 - ALPHA);
            if let Producer::Norm { path, .. } = &scaling.producer {
                for (j, (old, new)) in of(&before, path).iter().zip(of(&after, path)).enumerate() {
                    let expected = f64::from(*old) / scale(j);
                    assert!(
                        (f64::from(new) - expected).abs() <= 1e-5 * expected.abs(),
                        "{path} {j}: {new} {expected}"
                    );
                }
                // Rows of these may be divided by a scaling that follows.
                continue;
            }
            for (index, (old, new)) in weights[0].iter().zip(of(&after, &scaling.consumers[0])).enumerate() {
                let expected = f64::from(*old) * scale(index % columns);
                assert!(
                    (f64::from(new) - expected).abs() <= 1e-5 * expected.abs(),
                    "{index}: {new} {expected}"
                );
            }
        }
    }

    #[test]
    fn predictions_do_not_change() {
        for json in configurations() {
            let (mut model, stream) = model(&json);
            let ids = Array::from_slice(&[1, 7, 33, 2, 9, 30, 4, 4], &[1, 8]);
            let original = host(&model.forward(&ids, None).unwrap());
            let before = parameters(model.as_ref());
            let paths = paths(model.as_mut());
            let smoothed = smooth(model.as_mut(), &stream, &paths, 0.5, &mut Silent).unwrap();
            assert!(!smoothed.is_empty(), "{}", json["model_type"]);
            let changed = |path: &String| {
                host(&before[&format!("{path}.weight")])
                    != host(&parameters(model.as_ref())[&format!("{path}.weight")])
            };
            assert!(smoothed.iter().all(changed), "{}", json["model_type"]);
            let largest = original.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            for (new, old) in host(&model.forward(&ids, None).unwrap()).iter().zip(&original) {
                assert!((new - old).abs() <= 1e-4 * largest, "{}: {new} {old}", json["model_type"]);
            }
        }
    }

    #[test]
    fn channels_without_a_range_are_left_alone() {
        let scaling = Scaling::between("", vec![0, 0, 1, 2], "");
        let found = scales(&scaling, &[1.0, 4.0, 0.0, 3.0], &[0.25, 0.01, 2.0, 0.0], 0.5);
        assert_eq!(found, [4.0, 4.0, 1.0, 1.0]);
    }

    #[test]
    fn inputs_that_are_not_finite_are_named() {
        let (mut model, stream) = model(&configurations()[0]);
        for (name, parameter) in model.parameters_mut().flatten().into_iter().collect::<BTreeMap<_, _>>() {
            if &*name == "model.layers.0.post_attention_layernorm.weight" {
                *parameter = parameter.multiply(Array::from_f32(f32::NAN)).unwrap();
            }
        }
        let paths = paths(model.as_mut());
        let error = smooth(model.as_mut(), &stream, &paths, 0.5, &mut Silent).unwrap_err().to_string();
        assert!(error.contains("layers.0.mlp.gate_proj") && error.contains("not finite"), "{error}");
    }
}
