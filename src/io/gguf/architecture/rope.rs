//! Scaling of rotations: part of it are metadata, part of it tensors of factors.
//!
//! | here | in `config.json` |
//! |---|---|
//! | `rope.scaling.type` `linear`, `yarn` with their factors | the same |
//! | tensors `rope_factors_long`, `rope_factors_short` | `longrope` |
//! | tensor `rope_freqs` | `llama3` where its usual settings give these factors, else `longrope` with them |

use std::f64::consts::TAU;

use serde_json::{Map, Value, json};

use super::keys::Keys;
use crate::{Error, Result};

/// Tensors of factors by which periods grow, one for each rotated pair.
pub const FACTORS: [&str; 3] = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// Settings of Llama 3 that no published model changes.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;
const ORIGINAL: f64 = 8192.0;

/// A rotation as the file describes it.
pub(super) struct Rotation<'a> {
    pub(super) keys: Keys<'a>,
    /// Rotated numbers of a head.
    pub(super) dims: usize,
    pub(super) theta: f64,
    /// Longest context.
    pub(super) context: u64,
    /// Numbers of the tensors [`FACTORS`].
    pub(super) factors: [Option<Vec<f32>>; 3],
}

impl Rotation<'_> {
    /// The `rope_scaling` of a `config.json`; `None` if nothing is scaled.
    ///
    /// # Errors
    /// Keys that are missing or of another type, factors of another length.
    pub(super) fn scaling(&self) -> Result<Option<Value>> {
        for (name, factors) in FACTORS.iter().zip(&self.factors) {
            if let Some(factors) = factors
                && factors.len() != self.dims / 2
            {
                return Err(Error::ModelLoading(format!(
                    "tensor \"{name}\" has {} numbers, expected {}, one for each rotated pair",
                    factors.len(),
                    self.dims / 2
                )));
            }
        }
        let keys = self.keys;
        let original = keys.count("rope.scaling.original_context_length")?;
        let [frequencies, long, short] = &self.factors;
        if let (Some(long), Some(short)) = (long, short) {
            let mut scaling = json!({"rope_type": "longrope", "long_factor": long, "short_factor": short});
            if let Some(original) = original {
                scaling["original_max_position_embeddings"] = original.into();
            }
            if let Some(factor) = keys.float("rope.scaling.attn_factor")? {
                scaling["attention_factor"] = factor.into();
            }
            return Ok(Some(scaling));
        }
        if let Some(frequencies) =
            frequencies.as_ref().filter(|all| all.iter().any(|&factor| (factor - 1.0).abs() > f32::EPSILON))
        {
            return Ok(Some(self.by_frequency(frequencies)));
        }
        let factor = match keys.float("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            // Old files have the inverse of a linear factor.
            None => keys.float("rope.scale_linear")?,
        };
        let kind = keys.string("rope.scaling.type")?.unwrap_or("linear");
        match (kind, factor) {
            ("none" | "longrope", _) | (_, None) => Ok(None),
            ("linear", Some(factor)) if (factor - 1.0).abs() < f64::EPSILON => Ok(None),
            ("linear", Some(factor)) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
            ("yarn", Some(factor)) => self.yarn(factor, original.unwrap_or(self.context)).map(Some),
            (other, _) => Err(Error::ModelLoading(format!(
                "\"{}\" is \"{other}\", expected none, linear, yarn or longrope",
                keys.full("rope.scaling.type")
            ))),
        }
    }

    fn yarn(&self, factor: f64, original: u64) -> Result<Value> {
        let mut fields = Map::new();
        fields.insert("rope_type".to_owned(), "yarn".into());
        fields.insert("factor".to_owned(), factor.into());
        fields.insert("original_max_position_embeddings".to_owned(), original.into());
        for (key, name) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
            if let Some(value) = self.keys.float(&format!("rope.scaling.{key}"))? {
                fields.insert(name.to_owned(), value.into());
            }
        }
        // Here a factor of the usual one, there the whole.
        if let Some(attention) = self.keys.float("rope.scaling.yarn_attn_factor")? {
            fields.insert("attention_factor".to_owned(), (attention * (0.1 * factor.ln() + 1.0)).into());
        }
        Ok(fields.into())
    }

    fn by_frequency(&self, factors: &[f32]) -> Value {
        let largest = f64::from(factors.iter().copied().fold(1.0, f32::max));
        let usual = llama3_factors(self.dims, self.theta, [largest, LOW, HIGH, ORIGINAL]);
        let is_usual = factors
            .iter()
            .zip(&usual)
            .all(|(&found, &usual)| (f64::from(found) - usual).abs() <= 1e-5 * usual);
        if is_usual {
            return json!({
                "rope_type": "llama3", "factor": largest, "low_freq_factor": LOW, "high_freq_factor": HIGH,
                "original_max_position_embeddings": ORIGINAL as u64,
            });
        }
        json!({
            "rope_type": "longrope", "short_factor": factors, "long_factor": factors, "factor": 1.0,
            "attention_factor": 1.0, "original_max_position_embeddings": self.context,
        })
    }
}

/// Factors of periods by the settings `[factor, low_freq_factor, high_freq_factor, original length]` of Llama 3.
pub(super) fn llama3_factors(dims: usize, theta: f64, [factor, low, high, original]: [f64; 4]) -> Vec<f64> {
    (0..dims / 2)
        .map(|pair| {
            let wavelength = TAU * theta.powf(2.0 * pair as f64 / dims as f64);
            let smooth = (original / wavelength - low) / (high - low);
            if wavelength < original / high {
                1.0
            } else if wavelength > original / low {
                factor
            } else {
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        })
        .collect()
}
