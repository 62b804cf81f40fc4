//! Rotary position embeddings ([RoPE](https://arxiv.org/abs/2104.09864)), half-split layout.

use std::f64::consts::TAU;

use mlx_rs::Array;
use serde::Deserialize;

use super::Result;
use crate::kernels::rope::{Positions, Rotation, rope};

/// Turns pairs `(x[i], x[i + head_dim/2])` by `position · theta^(-2i/head_dim)`, stretched as the
/// checkpoint says.
#[derive(Debug, Clone)]
pub struct Rope {
    rotation: Rotation,
}

/// How a checkpoint stretches its positions, as `config.json` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Positions divided by `factor` ([position interpolation](https://arxiv.org/abs/2306.15595)).
    Linear {
        /// Ratio of new to old context length.
        factor: f64,
    },
    /// Long periods stretched, short ones kept, a ramp between ([Llama 3.1](https://arxiv.org/abs/2407.21783)).
    Llama3 {
        /// Stretch of the long periods.
        factor: f64,
        /// Periods above `original / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Periods below `original / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Context length before stretching.
        original_max_position_embeddings: f64,
    },
}

impl Rope {
    /// For heads of `dims` numbers.
    #[must_use]
    pub fn new(dims: i32, theta: f64, scaling: RopeScaling) -> Self {
        let periods: Vec<f64> =
            Rotation::powers(theta, dims).into_iter().map(|period| scaling.stretch(period)).collect();
        let scale = if let RopeScaling::Linear { factor } = scaling { factor.recip() } else { 1.0 };
        Self { rotation: Rotation::new(&periods, scale) }
    }

    /// How fast each pair turns.
    #[must_use]
    pub fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// `q`, `k`: `[batch, time, heads, head_dim]` → both turned, same shapes.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, q: &Array, k: &Array, positions: Positions) -> Result<(Array, Array)> {
        rope(q, k, &self.rotation, positions)
    }
}

impl RopeScaling {
    /// Whether every number makes sense.
    #[must_use]
    pub fn is_valid(self) -> bool {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        match self {
            Self::Default => true,
            Self::Linear { factor } => positive(factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                [factor, low_freq_factor, original_max_position_embeddings].into_iter().all(positive)
                    && high_freq_factor.is_finite()
                    && high_freq_factor > low_freq_factor
            }
        }
    }

    /// New period for `period`, both over 2π.
    fn stretch(self, period: f64) -> f64 {
        let Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
            self
        else {
            return period;
        };
        let turns = original_max_position_embeddings / (TAU * period);
        let ramp = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
        period / ((1.0 - ramp) / factor + ramp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    #[test]
    fn turns_by_stretched_position() {
        for (scaling, stretch) in [(RopeScaling::Default, 1.0), (RopeScaling::Linear { factor: 2.0 }, 2.0)] {
            let rope = Rope::new(2, 10_000.0, scaling);
            let x = Array::from_slice(&[1.0_f32, 0.0, 1.0, 0.0], &[1, 2, 1, 2]);
            let (q, k) = rope.forward(&x, &x, Positions::From(3)).unwrap();
            eval([&q, &k]).unwrap();
            let angles = [3.0_f32 / stretch, 4.0 / stretch];
            let expected = angles.map(|angle| [angle.cos(), angle.sin()]).concat();
            for y in [q, k] {
                for (y, expected) in y.as_slice::<f32>().iter().zip(&expected) {
                    assert!((y - expected).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn llama3_keeps_short_and_stretches_long_periods() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        assert!((scaling.stretch(1.0) - 1.0).abs() < 1e-12);
        assert!((scaling.stretch(1e5) - 8e5).abs() < 1e-6);
        // Half-way along the ramp: 2.5 turns in the original context.
        let period = 8192.0 / (TAU * 2.5);
        assert!((scaling.stretch(period) - period / (0.5 / 8.0 + 0.5)).abs() < 1e-9);
    }
}
