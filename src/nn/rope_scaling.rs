//! Scaling of rotary position embeddings to longer contexts.

use std::f64::consts::TAU;

use serde::Deserialize;

/// Scaling method, with its keys of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    Default,
    /// Positions divided by `factor` ([position interpolation](https://arxiv.org/abs/2306.15595)).
    Linear(Linear),
    /// A base that grows with sequences longer than `max_position_embeddings` ([NTK-aware
    /// interpolation](https://arxiv.org/abs/2309.00071)).
    Dynamic(Dynamic),
    /// Long wavelengths are scaled, short ones are kept, with a smooth transition ([Llama
    /// 3.1](https://arxiv.org/abs/2407.21783)).
    Llama3(Llama3),
    /// As Llama 3, with a linear ramp over the dimensions and an attention factor
    /// ([YaRN](https://arxiv.org/abs/2309.00071)).
    Yarn(Yarn),
    /// A factor for each dimension, different for sequences within the original context length, and an
    /// attention factor ([LongRoPE](https://arxiv.org/abs/2402.13753)).
    Longrope(Longrope),
}

/// See [`RopeScaling::Linear`].
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Linear {
    /// Ratio of new to old context length.
    factor: f64,
}

/// See [`RopeScaling::Dynamic`].
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Dynamic {
    /// Ratio of new to old context length at twice the old one.
    factor: f64,
    /// Original context length.
    max_position_embeddings: f64,
}

/// See [`RopeScaling::Llama3`].
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Llama3 {
    /// Scaling factor of long wavelengths.
    factor: f64,
    /// Wavelengths above `original / low_freq_factor` are long.
    low_freq_factor: f64,
    /// Wavelengths below `original / high_freq_factor` are short.
    high_freq_factor: f64,
    /// Original context length.
    original_max_position_embeddings: f64,
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
    /// Returns the first key with an invalid value for heads of which `dims` elements are rotated.
    #[must_use]
    pub fn invalid_key(&self, dims: i32) -> Option<&'static str> {
        // Lengths are compared as whole numbers.
        let is_length = |length: f64| (2.0..=f64::from(i32::MAX)).contains(&length);
        let checks = match self {
            Self::Default => vec![],
            Self::Linear(linear) => vec![("factor", positive(linear.factor))],
            Self::Dynamic(dynamic) => vec![
                ("factor", positive(dynamic.factor)),
                ("max_position_embeddings", is_length(dynamic.max_position_embeddings)),
                ("head_dim", dims > 2),
            ],
            Self::Llama3(llama3) => vec![
                ("factor", positive(llama3.factor)),
                ("low_freq_factor", positive(llama3.low_freq_factor)),
                (
                    "high_freq_factor",
                    llama3.high_freq_factor.is_finite() && llama3.high_freq_factor > llama3.low_freq_factor,
                ),
                ("original_max_position_embeddings", positive(llama3.original_max_position_embeddings)),
            ],
            Self::Yarn(yarn) => vec![
                ("factor", positive(yarn.factor)),
                ("original_max_position_embeddings", positive(yarn.original_max_position_embeddings)),
                ("beta_fast", positive(yarn.beta_fast)),
                ("beta_slow", positive(yarn.beta_slow)),
                ("attention_factor", yarn.attention_factor.is_none_or(positive)),
                ("mscale", yarn.mscale.is_none_or(positive)),
                ("mscale_all_dim", yarn.mscale_all_dim.is_none_or(positive)),
            ],
            Self::Longrope(long) => {
                let fits = |factors: &[f64]| {
                    factors.len() == (dims / 2).unsigned_abs() as usize
                        && factors.iter().copied().all(positive)
                };
                vec![
                    ("short_factor", fits(&long.short_factor)),
                    ("long_factor", fits(&long.long_factor)),
                    ("factor", positive(long.factor)),
                    ("attention_factor", long.attention_factor.is_none_or(positive)),
                    ("original_max_position_embeddings", is_length(long.original_max_position_embeddings)),
                ]
            }
        };
        checks.into_iter().find(|(_, valid)| !valid).map(|(key, _)| key)
    }

    /// Returns the scaled `periods`, wavelengths over 2π, of a rotation with base `theta`.
    #[must_use]
    pub fn scale_periods(&self, periods: &[f64], theta: f64) -> Vec<f64> {
        match self {
            Self::Default | Self::Linear(_) | Self::Dynamic(_) => periods.to_vec(),
            Self::Llama3(llama3) => llama3.scale_periods(periods),
            Self::Yarn(yarn) => yarn.scale_periods(periods, theta),
            Self::Longrope(long) => multiplied(periods, &long.short_factor),
        }
    }

    /// Factor of positions.
    #[must_use]
    pub fn position_scale(&self) -> f64 {
        if let Self::Linear(linear) = self { linear.factor.recip() } else { 1.0 }
    }

    /// Factor of queries and of keys, for rotated elements.
    #[must_use]
    pub fn attention_factor(&self) -> f64 {
        match self {
            Self::Default | Self::Linear(_) | Self::Dynamic(_) | Self::Llama3(_) => 1.0,
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

impl Dynamic {
    /// Longest sequence that is rotated without scaling.
    #[must_use]
    pub fn limit(self) -> i32 {
        self.max_position_embeddings as i32
    }

    /// Returns the base for sequences of `length` positions, more than [`limit`](Self::limit), in place of
    /// `theta`.
    #[must_use]
    pub fn theta(self, theta: f64, dims: i32, length: i32) -> f64 {
        let dims = f64::from(dims);
        let stretch = self.factor * f64::from(length) / self.max_position_embeddings - (self.factor - 1.0);
        theta * stretch.powf(dims / (dims - 2.0))
    }
}

impl Llama3 {
    fn scale_periods(self, periods: &[f64]) -> Vec<f64> {
        let stretched = |&period: &f64| {
            let turns = self.original_max_position_embeddings / (TAU * period);
            let ramp = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            blend(period, self.factor, ramp.clamp(0.0, 1.0))
        };
        periods.iter().map(stretched).collect()
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
        let scaling = RopeScaling::Llama3(Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        });
        // The last: half-way along the ramp, 2.5 turns in the original context.
        let between = 8192.0 / (TAU * 2.5);
        let stretched = scaling.scale_periods(&[1.0, 1e5, between], 10_000.0);
        for (y, expected) in stretched.iter().zip([1.0, 8e5, between / (0.5 / 8.0 + 0.5)]) {
            assert!((y - expected).abs() < 1e-6, "{y} {expected}");
        }
    }

    #[test]
    fn yarn_stretches_by_the_number_of_the_pair() {
        let json = serde_json::json!({"factor": 32.0, "original_max_position_embeddings": 4096});
        let scaling = RopeScaling::Yarn(serde_json::from_value(json).unwrap());
        let periods: Vec<f64> = (0..32).map(|i| 150_000_f64.powf(f64::from(i) / 32.0)).collect();
        let stretched = scaling.scale_periods(&periods, 150_000.0);
        assert!((stretched[0] - periods[0]).abs() < 1e-12);
        assert!((stretched[31] / periods[31] - 32.0).abs() < 1e-9);
        // 0.1 · ln 32 + 1
        assert!((scaling.attention_factor() - 1.346_573_590_279_973).abs() < 1e-12);
    }

    #[test]
    fn dynamic_raises_the_base_with_the_length() {
        let dynamic = Dynamic { factor: 2.0, max_position_embeddings: 16.0 };
        // 2 · 40 / 16 - 1 = 4, and 4^(8/6)
        assert!((dynamic.theta(300.0, 8, 40) - 300.0 * 4_f64.powf(8.0 / 6.0)).abs() < 1e-9);
        assert!((dynamic.theta(300.0, 8, dynamic.limit()) - 300.0).abs() < 1e-9);
    }

    #[test]
    fn longrope_has_factors_for_every_pair() {
        let json = serde_json::json!({
            "factor": 32.0, "original_max_position_embeddings": 4096,
            "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0],
        });
        let scaling = RopeScaling::Longrope(serde_json::from_value(json).unwrap());
        assert_eq!([scaling.invalid_key(4), scaling.invalid_key(6)], [None, Some("short_factor")]);
        assert_eq!(scaling.scale_periods(&[1.0, 10.0], 100.0), [1.0, 20.0]);
        assert_eq!(scaling.long_context(&[1.0, 10.0]), Some((4096, vec![3.0, 40.0])));
        // √(1 + ln 32 / ln 4096)
        assert!((scaling.attention_factor() - 1.190_238_071_423_808).abs() < 1e-9);
    }
}
