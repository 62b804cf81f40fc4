//! How much the predictions of a model suffer when one layer is quantized.
//!
//! Each layer is quantized alone: the divergence of the model's predictions from those of the original is
//! measured. For small errors it is proportional to the squared error of the layer's output, which is computed for every
//! finer format. In the coarsest one, where errors are not small, the divergence is measured too.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use super::block::quantize_layer;
use super::config::QuantizeConfig;
use super::format::describe;
use super::output_error::output_errors;
use super::report::Sensitivity;
use crate::calibrate::{BlockStream, Reference, SecondMoments, hold_out, observe, with_weight};
use crate::kernels::quantized::Format;
use crate::models::Model;
use crate::nn::quantized::WeightMut;
use crate::progress::{Event, Observer};
use crate::{Error, Result, files};

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
        let layers = ["/report/sensitivity", "/layers"].into_iter().find(|key| value.pointer(key).is_some());
        let layers =
            layers.and_then(|key| value.pointer_mut(key)).map(serde_json::Value::take).unwrap_or_default();
        serde_json::from_value(layers)
            .map_err(|error| broken(format!("expected the sensitivity.json of an earlier run: {error}")))
    }
}

/// Measures the sensitivity of each of `units`, in their order, by quantizing it in both of `formats`: the first stands for
/// all that are finer, the second, which is coarser, only for itself.
///
/// # Errors
/// Errors from MLX; weights that are not finite; [`Error::Interrupted`].
pub(super) fn measure(
    model: &mut Model,
    sequences: &[Vec<u32>],
    units: &[Unit],
    formats: [Format; 2],
    config: &QuantizeConfig,
    observer: &mut dyn Observer,
) -> Result<Vec<Sensitivity>> {
    let (seen, judged) = hold_out(sequences, model.vocab_size() as usize);
    let reference = Reference::of(model, judged, observer)?;
    let mut judged = BlockStream::start(model, &reference.sequences)?;
    let mut inputs = BlockStream::start(model, &seen)?;
    let mut found: Vec<Option<Sensitivity>> = vec![None; units.len()];
    let mut done = 0;
    let mut measure = |model: &mut Model, index: usize, inputs: &Inputs, observer: &mut dyn Observer| {
        found[index] = Some(
            Alone { unit: &units[index], formats, config }.measure(model, inputs, &reference, observer)?,
        );
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

/// One unit that is quantized, while all others keep their weights.
struct Alone<'a> {
    unit: &'a Unit,
    formats: [Format; 2],
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
        let Self { unit, formats: [format, coarse], config } = *self;
        let mut errors = vec![0.0; unit.candidates.len()];
        for path in &unit.paths {
            let moments = inputs.moments(path);
            // Experts count by their tokens; layers outside of blocks have no moments.
            let share = if unit.block.is_some() { moments.map_or(0, SecondMoments::tokens) } else { 1 };
            with_weight(model, path, |weight| {
                let of_layer = output_errors(path, &weight, &unit.candidates, moments, config)?;
                for (sum, error) in errors.iter_mut().zip(of_layer) {
                    *sum += share as f64 * error;
                }
                Ok(())
            })?;
        }
        let kl = self.divergence(model, format, inputs, reference, observer)?;
        let coarse_kl = self.divergence(model, coarse, inputs, reference, observer)?;
        let measured = unit.candidates.iter().position(|candidate| *candidate == format);
        let scale = measured.map_or(1.0, |index| errors[index]).max(f64::MIN_POSITIVE);
        let errors = unit.candidates.iter().zip(errors).map(|(&candidate, error)| {
            // Errors as large as these are not small.
            let error =
                if candidate == coarse && kl > 0.0 { (coarse_kl / kl).max(1.0) } else { error / scale };
            (describe(candidate), error)
        });
        let (layer, errors) = (unit.name.clone(), errors.collect());
        Ok(Sensitivity { layer, format: describe(format), kl, errors })
    }

    /// Divergence of the predictions while the layers are quantized in `format`.
    fn divergence(
        &self,
        model: &mut Model,
        format: Format,
        inputs: &Inputs,
        reference: &Reference,
        observer: &mut dyn Observer,
    ) -> Result<f64> {
        let mut kept = Vec::new();
        for path in &self.unit.paths {
            with_weight(model, path, |weight| {
                kept.push(weight.weight.clone());
                quantize_layer(path, weight, format, inputs.moments(path), self.config).map(drop)
            })?;
        }
        let stream = match &inputs.stream {
            Some(stream) => stream.clone(),
            None => BlockStream::start(model, &reference.sequences)?,
        };
        let kl = reference.divergence(model, stream, observer);
        for (path, dense) in self.unit.paths.iter().zip(kept) {
            with_weight(model, path, |WeightMut { weight, scales, biases, format }| {
                (*weight, *scales, *biases, *format) = (dense, None, None, None);
                Ok(())
            })?;
        }
        kl
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::Array;
    use serde_json::json;

    use super::*;
    use crate::kernels;
    use crate::models;
    use crate::progress::Silent;
    use crate::quantize::Technique;

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
        let [two, three] = [2, 3].map(|bits| Format::affine(bits, 32).unwrap());
        let candidates = vec![two, three, Format::affine(4, 32).unwrap(), Format::NVFP4];
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
        let found = measure(model.as_mut(), &sequences, &units, [three, two], &config, &mut Silent).unwrap();
        for (ids, before) in sequences.iter().zip(&before) {
            assert_eq!(&logs(model.as_ref(), ids), before, "a layer was not put back");
        }
        let (_, judged) = hold_out(&sequences, 48);
        assert_eq!(judged, sequences[2..]);
        for (unit, found) in units.iter().zip(&found) {
            let divergence = |format| {
                let mut changed = self::model();
                let quantize = |weight: WeightMut| Ok(weight.quantize(format).map(drop)?);
                with_weight(changed.as_mut(), &unit.name, quantize).unwrap();
                let terms = sequences.iter().zip(&before).skip(2).flat_map(|(ids, p)| {
                    let of_position = |(p, q): (&Vec<f64>, Vec<f64>)| {
                        p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
                    };
                    p.iter().zip(logs(changed.as_ref(), ids)).map(of_position).collect::<Vec<_>>()
                });
                terms.sum::<f64>() / 32.0
            };
            let (kl, coarse) = (divergence(three), divergence(two));
            assert!((found.kl / kl - 1.0).abs() < 1e-3, "{found:?} {kl}");
            assert!((found.errors["2/32"] * kl / coarse - 1.0).abs() < 2e-3, "{found:?} {coarse}");
            assert!((found.errors["3/32"] - 1.0).abs() < 1e-12);
            assert!(found.errors["4/32"] < 0.4 && found.errors["nvfp4"] < 0.5, "{found:?}");
        }
    }
}
