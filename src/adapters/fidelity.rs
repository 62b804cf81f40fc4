//! How much the outputs of a merged model differ from those of model and adapter, and how much of that is rounding.
//!
//! Rounding is measured: the merged weights are moved by up to half a unit in the last place, at random, and the
//! change of the logits is what numbers of that format cannot tell apart. It grows with the width and depth of a
//! model and with the size of its weights, which no formula knows.

use mlx_rs::{Array, Dtype, random};

use super::adapter::Adapter;
use crate::models::Model;
use crate::rng::{self, Purpose};
use crate::{Error, Result, kernels};

/// Sequences and tokens per sequence that the models are compared on.
const PROBE_SHAPE: [i32; 2] = [2, 16];

/// Multiple of the measured rounding that a merged model may differ by; good merges stay within 2.1.
const SAFETY: f64 = 4.0;

/// Most draws of the rounding. One shows it where outputs are smooth; where a router chooses between experts, few show
/// that a token may go to another.
const DRAWS: u64 = 8;

/// Differences of a merged model; root mean squares over the logits of a few sequences.
#[derive(Debug, Clone, Copy)]
pub struct Fidelity {
    /// Difference between the model with and without the adapter.
    pub effect: f64,
    /// Difference between the merged model and the model with the adapter.
    pub error: f64,
    /// Fraction of the effect that the merged model has.
    pub kept: f64,
    /// Difference that rounding explains; `None` if weights were quantized.
    pub tolerance: Option<f64>,
}

/// Logits of a model for a few sequences, at each stage of a merge.
#[derive(Debug)]
pub struct Probe {
    ids: Array,
    base: Vec<f32>,
    wanted: Vec<f32>,
}

impl Probe {
    /// Reads `model` without an adapter.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new(model: &Model) -> Result<Self> {
        let ids = probe_ids(model.vocab_size());
        let base = values(&logits(model, &ids)?)?;
        Ok(Self { ids, base, wanted: Vec::new() })
    }

    /// Reads `model` with its adapter.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn read_adapted(&mut self, model: &Model) -> Result<()> {
        self.wanted = values(&logits(model, &self.ids)?)?;
        Ok(())
    }

    /// Compares `model`, into which `adapter` has been merged; `bits` are those of its coarsest quantized weight.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn compare(&self, model: &mut Model, adapter: &Adapter, bits: Option<usize>) -> Result<Fidelity> {
        let merged = values(&logits(model, &self.ids)?)?;
        let error = rms_difference(&merged, &self.wanted);
        let mut tolerance = 0.0_f64;
        for draw in 0..if bits.is_none() { DRAWS } else { 0 } {
            let rounded = self.rounded(model, adapter, draw)?;
            tolerance = tolerance.max(SAFETY * rms_difference(&rounded, &merged));
            if error <= tolerance {
                break;
            }
        }
        Ok(Fidelity {
            effect: rms_difference(&self.wanted, &self.base),
            error,
            kept: kept_fraction(&self.base, &self.wanted, &merged),
            tolerance: bits.is_none().then_some(tolerance),
        })
    }

    /// Logits of `model` with the weights of `adapter`'s layers rounded at random.
    fn rounded(&self, model: &mut Model, adapter: &Adapter, draw: u64) -> Result<Vec<f32>> {
        let mut own = Vec::new();
        model.visit_linears(&mut |path, layer| {
            if adapter.layers.contains_key(path) {
                let key = rng::key(draw, Purpose::Rounding, &[own.len() as u64])?;
                let half = 0.5 * last_place(layer.weight.dtype());
                let shift = random::uniform::<_, f32>(-half, half, layer.weight.shape(), &key)?;
                let wide = layer.weight.as_dtype(Dtype::Float32)?;
                own.push(std::mem::replace(&mut *layer.weight, wide.multiply(shift)?.add(&wide)?));
            }
            Ok(())
        })?;
        let logits = logits(model, &self.ids);
        let mut own = own.into_iter();
        model.visit_linears(&mut |path, layer| {
            if adapter.layers.contains_key(path) {
                own.next().into_iter().for_each(|weight| *layer.weight = weight);
            }
            Ok(())
        })?;
        // Only now: no rounded weight outlives its layer.
        values(&logits?)
    }
}

impl Fidelity {
    /// Checks that rounding explains the differences; `bits` are those of the coarsest quantized weight.
    ///
    /// # Errors
    /// A merged model that differs too much, with the figures.
    pub fn check(&self, bits: Option<usize>) -> Result<()> {
        let Self { effect, error, kept, tolerance } = *self;
        if !error.is_finite() || !effect.is_finite() {
            return Err(Error::Training("the logits of the model are no numbers".into()));
        }
        if let Some(tolerance) = tolerance.filter(|&tolerance| error > tolerance) {
            return Err(Error::Training(format!(
                "the merged model differs from model and adapter by {error:.2e}, more than the {tolerance:.2e} that \
                 rounding explains; nothing was written"
            )));
        }
        if 2.0 * error > effect {
            let format = match bits {
                Some(bits) => format!("{bits} bits: set dequantize, or keep the adapter beside the model"),
                None => "the model's number format: keep the adapter beside the model".into(),
            };
            return Err(Error::Training(format!(
                "merging would lose the adapter: its effect on the logits is {effect:.2e}, the error of rounding \
                 {error:.2e}, and {:.0}% of the effect would be left; it is too small for {format}",
                100.0 * kept.clamp(0.0, 1.0)
            )));
        }
        Ok(())
    }
}

/// A unit in the last place of a number near one.
fn last_place(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Bfloat16 => f32::EPSILON * 65_536.0,
        Dtype::Float16 => f32::EPSILON * 8_192.0,
        _ => f32::EPSILON,
    }
}

/// Deterministic token ids below `vocab`.
fn probe_ids(vocab: i32) -> Array {
    let count = PROBE_SHAPE.iter().product::<i32>() as u64;
    let ids: Vec<i32> =
        (0..count).map(|i| (rng::digest([i]) % u64::from(vocab.unsigned_abs())) as i32).collect();
    Array::from_slice(&ids, &PROBE_SHAPE)
}

/// Logits for `ids` in float32, not evaluated.
fn logits(model: &Model, ids: &Array) -> Result<Array> {
    Ok(model.forward(ids, None)?.as_dtype(Dtype::Float32)?)
}

fn values(x: &Array) -> Result<Vec<f32>> {
    kernels::eval([x])?;
    Ok(x.as_slice::<f32>().to_vec())
}

/// Root mean square of `a - b`.
fn rms_difference(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    (squares.sum::<f64>() / a.len() as f64).sqrt()
}

/// Fraction of the way from `base` to `wanted` that `merged` covers.
fn kept_fraction(base: &[f32], wanted: &[f32], merged: &[f32]) -> f64 {
    let (mut along, mut length) = (0.0, 0.0);
    for ((&base, &wanted), &merged) in base.iter().zip(wanted).zip(merged) {
        let way = f64::from(wanted) - f64::from(base);
        along += way * (f64::from(merged) - f64::from(base));
        length += way * way;
    }
    if length > 0.0 { along / length } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::adapters::adapter::AdapterLayer;
    use crate::adapters::merge::merge_weights;
    use crate::models;

    type Damage = fn(&mut Adapter);

    fn config(family: &str, hidden: i64, blocks: i64) -> Value {
        json!({
            "model_type": family, "vocab_size": 256, "hidden_size": hidden, "intermediate_size": 2 * hidden,
            "num_hidden_layers": blocks, "num_attention_heads": hidden / 32, "num_key_value_heads": hidden / 64,
            "head_dim": 32, "query_pre_attn_scalar": 32, "rms_norm_eps": 1e-6, "max_position_embeddings": 512,
            "tie_word_embeddings": false,
        })
    }

    fn model(family: &str, hidden: i64, blocks: i64, std: f32) -> Box<Model> {
        let mut model = models::create(&config(family, hidden, blocks)).unwrap();
        models::initialize(model.as_mut(), std, 1).unwrap();
        model
    }

    /// An adapter on all layers.
    fn adapter(model: &mut Model, rank: i32, scale: f32) -> Adapter {
        let mut layers = BTreeMap::new();
        model
            .visit_linears(&mut |path, layer| {
                let (inputs, outputs) = layer.size();
                let key = rng::key(2, Purpose::Adapter, &[layers.len() as u64])?;
                let (a_key, b_key) = random::split(&key, 2)?;
                let a = random::normal::<f32>(&[inputs, rank], None, (inputs as f32).sqrt().recip(), &a_key)?;
                let b = random::normal::<f32>(&[rank, outputs], None, 0.01, &b_key)?;
                layers.insert(path.to_owned(), AdapterLayer { a, b, m: None, scale });
                Ok(())
            })
            .unwrap();
        Adapter { layers, ..Adapter::default() }
    }

    /// Merges what `damage` makes of `adapter`, and compares with `adapter` itself.
    fn merged(model: &mut Model, adapter: &Adapter, damage: impl FnOnce(&mut Adapter)) -> Fidelity {
        let mut probe = Probe::new(model).unwrap();
        adapter.attach(model).unwrap();
        probe.read_adapted(model).unwrap();
        let mut damaged = adapter.clone();
        damage(&mut damaged);
        damaged.attach(model).unwrap();
        merge_weights(model, &damaged, None).unwrap();
        probe.compare(model, adapter, None).unwrap()
    }

    #[test]
    fn rounding_explains_good_merges_of_any_width_and_depth() {
        for (family, hidden, blocks, rank, scale, std) in [
            ("llama", 64, 2, 4, 2.0, 0.02),
            ("llama", 256, 8, 8, 10.0, 0.1),
            ("llama", 512, 8, 8, 10.0, 0.05),
            ("qwen2", 512, 4, 64, 2.0, 0.1),
            ("gemma2", 256, 4, 8, 100.0, 0.1),
        ] {
            let mut model = model(family, hidden, blocks, std);
            let adapter = adapter(model.as_mut(), rank, scale);
            let found = merged(model.as_mut(), &adapter, |_| {});
            found.check(None).unwrap();
            assert!(found.tolerance.is_some_and(|tolerance| tolerance < 1e-3 * found.effect), "{found:?}");
        }
    }

    #[test]
    fn damage_is_no_rounding() {
        const DOWN: &str = "model.layers.3.mlp.down_proj";
        let damages: [(&str, Damage); 5] = [
            ("a scale that is off by one percent", |adapter| {
                adapter.layers.values_mut().for_each(|layer| layer.scale *= 1.01);
            }),
            ("a square matrix that is transposed", |adapter| {
                let layer = adapter.layers.get_mut("model.layers.3.self_attn.o_proj").unwrap();
                (layer.a, layer.b) = (layer.b.t(), layer.a.t());
            }),
            ("a layer that is left out", |adapter| {
                adapter.layers.get_mut(DOWN).unwrap().scale = 0.0;
            }),
            ("a layer with the matrices of another", |adapter| {
                adapter.layers.insert(DOWN.into(), adapter.layers["model.layers.2.mlp.down_proj"].clone());
            }),
            ("an adapter that is lost", |adapter| {
                adapter.layers.values_mut().for_each(|layer| layer.scale = 0.0);
            }),
        ];
        for (what, damage) in damages {
            for dtype in [Dtype::Float32, Dtype::Bfloat16] {
                let mut model = model("llama", 128, 4, 0.05);
                model
                    .visit_linears(&mut |_, layer| {
                        *layer.weight = layer.weight.as_dtype(dtype)?;
                        Ok(())
                    })
                    .unwrap();
                let adapter = adapter(model.as_mut(), 8, 10.0);
                let found = merged(model.as_mut(), &adapter, damage);
                let message = found.check(None).err().map(|error| error.to_string());
                // One percent is about what bfloat16 rounds by.
                if dtype == Dtype::Float32 || !what.contains("percent") {
                    assert!(
                        message.is_some_and(|why| why.contains("rounding")),
                        "{what}, {dtype:?}: {found:?}"
                    );
                }
            }
        }
    }
}
