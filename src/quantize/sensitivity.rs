//! How much the predictions of a model suffer when one layer is quantized.
//!
//! Each layer is quantized alone, in one format: the divergence of the model's predictions from those of the original is
//! measured. For small errors it is proportional to the squared error of the layer's output, which is computed for every
//! other format too.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};
use serde::{Deserialize, Serialize};

use super::block::{observe, quantize_layer};
use super::config::{QuantizeConfig, Technique};
use super::format::describe;
use super::gptq::{Factor, Settings};
use super::grid::Grid;
use super::layer::{Matrix, with_weight};
use crate::calibrate::{BlockStream, SecondMoments};
use crate::kernels::quantized::{Format, Mode, PackedWeight, dequantize, quantize};
use crate::models::Model;
use crate::nn::quantized::WeightMut;
use crate::progress::{Event, Observer};
use crate::{Error, Result, files, kernels};

/// Positions at which predictions are compared.
const POSITIONS: usize = 1024;
/// Bounds on the logits of all these positions, 512 MiB in float32, and on those computed at once.
const MAX_LOGITS: usize = 1 << 27;
const MAX_LOGITS_AT_ONCE: usize = 1 << 24;
/// Sequences on which layers are calibrated.
const SEQUENCES: usize = 16;
/// Weights of a layer that are rounded to compare formats.
const MAX_WEIGHTS: i32 = 1 << 22;

/// The sensitivity of a layer, or of the experts of one stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// Key path; of experts that are stacked, the name of the stack.
    pub layer: String,
    /// Format in which it was quantized alone.
    pub format: String,
    /// Mean Kullback–Leibler divergence of the predictions from the original ones, in nats.
    pub kl: f64,
    /// Squared error of the layer's output in each format, relative to that in `format`.
    pub errors: BTreeMap<String, f64>,
}

/// Layers that have one format.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub name: String,
    pub paths: Vec<String>,
    /// Block that they are in.
    pub block: Option<usize>,
    /// Formats to choose from.
    pub candidates: Vec<Format>,
}

impl Sensitivity {
    /// Reads the `sensitivity.json` or `quantization.json` of an earlier run.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else.
    pub(super) fn read(path: &Path) -> Result<Vec<Self>> {
        let broken = |why: String| Error::Config(format!("sensitivity: {}: {why}", path.display()));
        let text = files::read_to_string(path, files::MAX_JSON).map_err(|error| broken(error.to_string()))?;
        let mut value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| broken(format!("not valid JSON: {error}")))?;
        let layers = match value.pointer_mut("/report/sensitivity") {
            Some(layers) => layers.take(),
            None => value["layers"].take(),
        };
        serde_json::from_value(layers)
            .map_err(|error| broken(format!("expected the sensitivity.json of an earlier run: {error}")))
    }
}

/// Measures the sensitivity of each of `units`, in their order, by quantizing it in `format`.
///
/// # Errors
/// Errors from MLX; weights that are not finite; [`Error::Interrupted`].
pub(super) fn measure(
    model: &mut Model,
    sequences: &[Vec<u32>],
    units: &[Unit],
    format: Format,
    config: &QuantizeConfig,
    observer: &mut dyn Observer,
) -> Result<Vec<Sensitivity>> {
    let (seen, judged) = split(sequences, model.vocab_size() as usize);
    let reference = Reference::of(model, judged, observer)?;
    let mut judged = BlockStream::start(model, &reference.sequences)?;
    let mut inputs = BlockStream::start(model, &seen)?;
    let mut found: Vec<Option<Sensitivity>> = vec![None; units.len()];
    let mut done = 0;
    let mut measure = |model: &mut Model, index: usize, inputs: &Inputs, observer: &mut dyn Observer| {
        found[index] =
            Some(Alone { unit: &units[index], format, config }.measure(model, inputs, &reference, observer)?);
        done += 1;
        let event = Event::Progress { stage: "sensitivity".to_owned(), done, total: units.len() as u64 };
        if observer.on(&event) == ControlFlow::Break(()) { Err(Error::Interrupted) } else { Ok(()) }
    };
    for block in 0..model.block_count() {
        let of_block: Vec<usize> =
            (0..units.len()).filter(|&unit| units[unit].block == Some(block)).collect();
        let paths: Vec<String> =
            of_block.iter().flat_map(|&unit| units[unit].paths.iter().cloned()).collect();
        let moments = observe(&inputs, model, &paths, observer)?;
        let inputs_of = Inputs { paths, moments, stream: Some(judged.clone()) };
        for index in of_block {
            measure(model, index, &inputs_of, observer)?;
        }
        inputs.advance(model, observer)?;
        judged.advance(model, observer)?;
    }
    for index in (0..units.len()).filter(|&unit| units[unit].block.is_none()) {
        measure(model, index, &Inputs::default(), observer)?;
    }
    Ok(found.into_iter().flatten().collect())
}

/// Sequences on which layers are calibrated, and others on which predictions are compared: as many as there is room for.
fn split(sequences: &[Vec<u32>], vocab: usize) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let length = sequences.first().map_or(1, Vec::len);
    let positions = POSITIONS.min(MAX_LOGITS / vocab).max(2);
    let count = (positions / length).clamp(1, sequences.len().div_ceil(2));
    let (seen, judged) = sequences.split_at(sequences.len() - count);
    let judged: Vec<Vec<u32>> = judged.iter().map(|ids| ids[..length.min(positions)].to_vec()).collect();
    let seen = if seen.is_empty() { sequences } else { seen };
    (seen[..seen.len().min(SEQUENCES)].to_vec(), judged)
}

/// What the layers of one block see.
#[derive(Default)]
struct Inputs {
    paths: Vec<String>,
    /// By the indices of `paths`.
    moments: BTreeMap<Vec<usize>, SecondMoments>,
    /// The compared sequences in front of the block.
    stream: Option<BlockStream>,
}

impl Inputs {
    fn moments(&self, path: &str) -> Option<&SecondMoments> {
        let index = self.paths.iter().position(|observed| observed == path)?;
        let (_, moments) = self.moments.iter().find(|(layers, _)| layers.contains(&index))?;
        Some(moments).filter(|moments| !moments.is_empty())
    }
}

/// Predictions of the original model.
struct Reference {
    sequences: Vec<Vec<u32>>,
    /// Log-probabilities, `[positions, vocab]` each.
    predictions: Vec<Array>,
}

impl Reference {
    fn of(model: &Model, sequences: Vec<Vec<u32>>, observer: &mut dyn Observer) -> Result<Self> {
        let mut predictions = Vec::new();
        predict(model, BlockStream::start(model, &sequences)?, observer, &mut |logs| {
            predictions.push(logs);
            Ok(())
        })?;
        Ok(Self { sequences, predictions })
    }

    /// Mean divergence of what `model` predicts from here on.
    fn divergence(&self, model: &Model, stream: BlockStream, observer: &mut dyn Observer) -> Result<f64> {
        let (mut sum, mut positions, mut expected) = (0.0, 0, self.predictions.iter());
        predict(model, stream, observer, &mut |q| {
            let Some(p) = expected.next() else { return Ok(()) };
            let kl = p.exp()?.multiply(p.subtract(&q)?)?.sum_axis(-1, false)?;
            kernels::eval([&kl])?;
            sum += kl.as_slice::<f32>().iter().map(|&kl| f64::from(kl.max(0.0))).sum::<f64>();
            positions += kl.size();
            Ok(())
        })?;
        Ok(sum / positions.max(1) as f64)
    }
}

/// Calls `see` with the log-probabilities of the next token at some positions of `stream` at a time, `[positions, vocab]`.
fn predict(
    model: &Model,
    mut stream: BlockStream,
    observer: &mut dyn Observer,
    see: &mut dyn FnMut(Array) -> Result<()>,
) -> Result<()> {
    while stream.block() < model.block_count() {
        stream.advance(model, observer)?;
    }
    let step = (MAX_LOGITS_AT_ONCE / model.vocab_size() as usize).max(1);
    for x in stream.batches() {
        let hidden = model.apply_final_norm(x)?;
        let hidden = hidden.reshape(&[-1, hidden.dim(-1)])?;
        for start in (0..hidden.dim(0)).step_by(step) {
            let positions = start..hidden.dim(0).min(start + step as i32);
            let logits = model.logits(&hidden.try_index((positions, ..))?)?.as_dtype(Dtype::Float32)?;
            let logs = logits.subtract(logits.logsumexp_axis(-1, true)?)?;
            kernels::eval([&logs])?;
            see(logs)?;
        }
    }
    Ok(())
}

/// One unit that is quantized, while all others keep their weights.
struct Alone<'a> {
    unit: &'a Unit,
    format: Format,
    config: &'a QuantizeConfig,
}

impl Alone<'_> {
    fn measure(
        &self,
        model: &mut Model,
        inputs: &Inputs,
        reference: &Reference,
        observer: &mut dyn Observer,
    ) -> Result<Sensitivity> {
        let Self { unit, format, config } = *self;
        let (mut kept, mut errors) = (Vec::new(), vec![0.0; unit.candidates.len()]);
        for path in &unit.paths {
            let moments = inputs.moments(path);
            // Experts count by their tokens; layers outside of blocks have no moments.
            let share = if unit.block.is_some() { moments.map_or(0, SecondMoments::tokens) } else { 1 };
            with_weight(model, path, |weight| {
                kept.push(weight.weight.clone());
                let of_layer = output_errors(path, &weight, &unit.candidates, moments, config)?;
                for (sum, error) in errors.iter_mut().zip(of_layer) {
                    *sum += share as f64 * error;
                }
                quantize_layer(path, weight, format, moments, config).map(drop)
            })?;
        }
        let stream = match &inputs.stream {
            Some(stream) => stream.clone(),
            None => BlockStream::start(model, &reference.sequences)?,
        };
        let kl = reference.divergence(model, stream, observer);
        for (path, dense) in unit.paths.iter().zip(kept) {
            with_weight(model, path, |WeightMut { weight, scales, biases, format }| {
                (*weight, *scales, *biases, *format) = (dense, None, None, None);
                Ok(())
            })?;
        }
        let measured = unit.candidates.iter().position(|candidate| *candidate == format);
        let scale = measured.map_or(1.0, |index| errors[index]).max(f64::MIN_POSITIVE);
        let errors =
            unit.candidates.iter().zip(errors).map(|(&format, error)| (describe(format), error / scale));
        Ok(Sensitivity {
            layer: unit.name.clone(),
            format: describe(format),
            kl: kl?,
            errors: errors.collect(),
        })
    }
}

/// Squared errors of the output of the layer at `path` in each of `formats`.
fn output_errors(
    path: &str,
    weight: &WeightMut,
    formats: &[Format],
    moments: Option<&SecondMoments>,
    config: &QuantizeConfig,
) -> Result<Vec<f64>> {
    let importance = moments.map(SecondMoments::mean_squares);
    let (search, importance) = (config.range_search, importance.as_deref());
    let settings = Settings { damping: config.damping, act_order: config.act_order };
    if config.layer_technique() == Technique::Gptq
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::models;
    use crate::progress::Silent;

    fn model() -> Box<Model> {
        let config = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "vocab_size": 48, "tie_word_embeddings": true
        });
        let mut model = models::create(&config).unwrap();
        models::initialize(model.as_mut(), 0.2, 1).unwrap();
        model
    }

    /// Log-probabilities at every position, in f64.
    fn logs(model: &Model, ids: &[u32]) -> Vec<Vec<f64>> {
        let logits = model.forward(&Array::from_slice(ids, &[1, ids.len() as i32]), None).unwrap();
        kernels::eval([&logits]).unwrap();
        let row = |row: &[f32]| {
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            row.iter().map(|&x| f64::from(x) - sum.ln()).collect()
        };
        logits.as_slice::<f32>().chunks(48).map(row).collect()
    }

    #[test]
    fn each_layer_is_quantized_alone_and_put_back() {
        let sequences: Vec<Vec<u32>> =
            (0..4).map(|i| (0..16).map(|j| (i * 7 + j * j * 5) % 48).collect()).collect();
        let three = Format::affine(3, 32).unwrap();
        let candidates = vec![three, Format::affine(4, 32).unwrap(), Format::NVFP4];
        let unit = |path: &str, block| Unit {
            name: path.to_owned(),
            paths: vec![path.to_owned()],
            block,
            candidates: candidates.clone(),
        };
        let down = "model.layers.1.mlp.down_proj";
        let units = [unit("model.embed_tokens", None), unit(down, Some(1))];
        // Ranges from the smallest to the largest weight are MLX's own.
        let config = QuantizeConfig { technique: Technique::Rtn, range_search: false, ..Default::default() };
        let mut model = model();
        let before: Vec<_> = sequences.iter().map(|ids| logs(model.as_ref(), ids)).collect();
        let found = measure(model.as_mut(), &sequences, &units, three, &config, &mut Silent).unwrap();
        for (ids, before) in sequences.iter().zip(&before) {
            assert_eq!(&logs(model.as_ref(), ids), before, "a layer was not put back");
        }
        let (_, judged) = split(&sequences, 48);
        assert_eq!(judged, sequences[2..]);
        for (unit, found) in units.iter().zip(&found) {
            let mut changed = self::model();
            with_weight(changed.as_mut(), &unit.name, |weight| Ok(weight.quantize(three).map(drop)?))
                .unwrap();
            let mut kl = 0.0;
            for (ids, p) in sequences.iter().zip(&before).skip(2) {
                for (p, q) in p.iter().zip(logs(changed.as_ref(), ids)) {
                    kl += p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>() / 32.0;
                }
            }
            assert!((found.kl / kl - 1.0).abs() < 1e-3, "{found:?} {kl}");
            assert!((found.errors["3/32"] - 1.0).abs() < 1e-12);
            assert!(found.errors["4/32"] < 0.4 && found.errors["nvfp4"] < 0.5, "{found:?}");
        }
    }
}
