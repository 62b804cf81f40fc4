//! Scaling of rotary position embeddings to longer contexts.

use std::f64::consts::TAU;

use serde::Deserialize;

/// Scaling method, as in `rope_scaling` of `config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// No scaling.
    Default,
    /// Positions divided by `factor` ([position interpolation](https://arxiv.org/abs/2306.15595)).
    Linear {
        /// Ratio of new to old context length.
        factor: f64,
    },
    /// Long wavelengths are scaled, short ones are kept, with a smooth transition ([Llama
    /// 3.1](https://arxiv.org/abs/2407.21783)).
    Llama3 {
        /// Scaling factor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Original context length.
        original_max_position_embeddings: f64,
    },
    /// As Llama 3, with a linear ramp over the dimensions and an attention factor
    /// ([YaRN](https://arxiv.org/abs/2309.00071)).
    Yarn(Yarn),
    /// A factor for each dimension, different for sequences within the original context length, and an
    /// attention factor ([LongRoPE](https://arxiv.org/abs/2402.13753)).
    #[serde(alias = "su")]
    Longrope(Longrope),
}

/// See [`RopeScaling::Yarn`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Yarn {
    /// Scaling factor of long wavelengths.
    factor: f64,
    original_max_position_embeddings: f64,
    /// Factor of queries and of keys.
    attention_factor: Option<f64>,
    #[serde(default = "thirty_two")]
    beta_fast: f64,
    #[serde(default = "one")]
    beta_slow: f64,
    /// Whether the ends of the ramp are rounded to integers.
    #[serde(default = "yes")]
    truncate: bool,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
}

/// See [`RopeScaling::Longrope`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Longrope {
    short_factor: Vec<f64>,
    long_factor: Vec<f64>,
    /// Ratio of new to old context length.
    factor: f64,
    original_max_position_embeddings: f64,
    /// Factor of queries and of keys.
    attention_factor: Option<f64>,
}

fn thirty_two() -> f64 {
    32.0
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

fn positive(x: f64) -> bool {
    x.is_finite() && x > 0.0
}

impl RopeScaling {
    /// Whether all values are valid for heads of which `dims` elements are rotated.
    #[must_use]
    pub fn is_valid(&self, dims: i32) -> bool {
        let pairs = (dims / 2).unsigned_abs() as usize;
        match self {
            Self::Default => true,
            &Self::Linear { factor } => positive(factor),
            &Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                [factor, low_freq_factor, original_max_position_embeddings].into_iter().all(positive)
                    && high_freq_factor.is_finite()
                    && high_freq_factor > low_freq_factor
            }
            Self::Yarn(yarn) => {
                [yarn.factor, yarn.original_max_position_embeddings, yarn.beta_fast, yarn.beta_slow]
                    .into_iter()
                    .chain([yarn.attention_factor, yarn.mscale, yarn.mscale_all_dim].into_iter().flatten())
                    .all(positive)
            }
            Self::Longrope(long) => {
                let factors = || long.short_factor.iter().chain(&long.long_factor).copied();
                // Positions are compared with the original length as whole numbers.
                let range = 2.0..=f64::from(i32::MAX);
                [long.short_factor.len(), long.long_factor.len()] == [pairs; 2]
                    && factors().chain([long.factor]).chain(long.attention_factor).all(positive)
                    && range.contains(&long.original_max_position_embeddings)
            }
        }
    }

    /// Returns the scaled `periods`, wavelengths over 2π, of a rotation with base `theta`.
    #[must_use]
    pub fn scale_periods(&self, periods: &[f64], theta: f64) -> Vec<f64> {
        match self {
            Self::Default | Self::Linear { .. } => periods.to_vec(),
            &Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let stretched = |&period: &f64| {
                    let turns = original_max_position_embeddings / (TAU * period);
                    let ramp = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    blend(period, factor, ramp.clamp(0.0, 1.0))
                };
                periods.iter().map(stretched).collect()
            }
            Self::Yarn(yarn) => yarn.scale_periods(periods, theta),
            Self::Longrope(long) => multiplied(periods, &long.short_factor),
        }
    }

    /// Factor of positions.
    #[must_use]
    pub fn position_scale(&self) -> f64 {
        if let Self::Linear { factor } = self { factor.recip() } else { 1.0 }
    }

    /// Factor of queries and of keys, for rotated elements.
    #[must_use]
    pub fn attention_factor(&self) -> f64 {
        match self {
            Self::Default | Self::Linear { .. } | Self::Llama3 { .. } => 1.0,
            Self::Yarn(yarn) => yarn.attention_factor(),
            Self::Longrope(long) => long.attention_factor(),
        }
    }

    /// The sequence length above which other periods apply, and those periods.
    #[must_use]
    pub fn long_context(&self, periods: &[f64]) -> Option<(i32, Vec<f64>)> {
        let Self::Longrope(long) = self else { return None };
        Some((long.original_max_position_embeddings as i32, multiplied(periods, &long.long_factor)))
    }
}

impl Yarn {
    fn scale_periods(&self, periods: &[f64], theta: f64) -> Vec<f64> {
        let pairs = periods.len() as f64;
        // Number of the pair that makes this many turns in the original context.
        let pair =
            |turns: f64| pairs * (self.original_max_position_embeddings / (turns * TAU)).ln() / theta.ln();
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(2.0 * pairs - 1.0));
        let width = if (high - low).abs() < f64::EPSILON { 0.001 } else { high - low };
        let stretched = |(i, &period): (usize, &f64)| {
            blend(period, self.factor, 1.0 - ((i as f64 - low) / width).clamp(0.0, 1.0))
        };
        periods.iter().enumerate().map(stretched).collect()
    }

    fn attention_factor(&self) -> f64 {
        let scaled =
            |mscale: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * mscale * self.factor.ln() + 1.0 };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(factor), ..) => factor,
            (None, Some(mscale), Some(all)) => scaled(mscale) / scaled(all),
            _ => scaled(1.0),
        }
    }
}

impl Longrope {
    fn attention_factor(&self) -> f64 {
        self.attention_factor.unwrap_or_else(|| {
            if self.factor <= 1.0 {
                return 1.0;
            }
            (1.0 + self.factor.ln() / self.original_max_position_embeddings.ln()).sqrt()
        })
    }
}

/// Interpolates between `period`, where `kept` is 1, and `factor · period`, where it is 0.
fn blend(period: f64, factor: f64, kept: f64) -> f64 {
    period / ((1.0 - kept) / factor + kept)
}

fn multiplied(periods: &[f64], factors: &[f64]) -> Vec<f64> {
    periods.iter().zip(factors).map(|(period, factor)| period * factor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_and_stretches_long_periods() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        // The last: half-way along the ramp, 2.5 turns in the original context.
        let between = 8192.0 / (TAU * 2.5);
        let stretched = scaling.scale_periods(&[1.0, 1e5, between], 10_000.0);
        for (y, expected) in stretched.iter().zip([1.0, 8e5, between / (0.5 / 8.0 + 0.5)]) {
            assert!((y - expected).abs() < 1e-6, "{y} {expected}");
        }
    }

    #[test]
    fn yarn_stretches_by_the_number_of_the_pair() {
        let json = serde_json::json!({
            "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
        });
        let scaling: RopeScaling = serde_json::from_value(json).unwrap();
        let periods: Vec<f64> = (0..32).map(|i| 150_000_f64.powf(f64::from(i) / 32.0)).collect();
        let stretched = scaling.scale_periods(&periods, 150_000.0);
        assert!((stretched[0] - periods[0]).abs() < 1e-12);
        assert!((stretched[31] / periods[31] - 32.0).abs() < 1e-9);
        // 0.1 · ln 32 + 1
        assert!((scaling.attention_factor() - 1.346_573_590_279_973).abs() < 1e-12);
    }

    #[test]
    fn longrope_has_factors_for_every_pair() {
        let json = serde_json::json!({
            "rope_type": "su", "factor": 32.0, "original_max_position_embeddings": 4096,
            "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0],
        });
        let scaling: RopeScaling = serde_json::from_value(json).unwrap();
        assert!(scaling.is_valid(4) && !scaling.is_valid(6));
        assert_eq!(scaling.scale_periods(&[1.0, 10.0], 100.0), [1.0, 20.0]);
        assert_eq!(scaling.long_context(&[1.0, 10.0]), Some((4096, vec![3.0, 40.0])));
        // √(1 + ln 32 / ln 4096)
        assert!((scaling.attention_factor() - 1.190_238_071_423_808).abs() < 1e-9);
    }
}
