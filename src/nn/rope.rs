//! Rotary position embeddings ([RoPE](https://arxiv.org/abs/2104.09864)), half-split layout.

use mlx_rs::Array;
use serde::Serialize;

use super::rope_scaling::{Dynamic, RopeScaling};
use crate::kernels::rope::RotaryFrequencies;

/// Rotates the pairs `(x[i], x[i + dims/2])` of the first `dims` elements of a head by `position ·
/// theta^(-2i/dims)`, with the scaling of the checkpoint.
#[derive(Debug, Clone)]
pub struct Rope {
    rotation: RotaryFrequencies,
    /// Periods without scaling.
    unscaled_periods: Vec<f64>,
    beyond: Option<Beyond>,
    /// Factor of queries, `[head_dim]`.
    attention_factor: Option<Array>,
    angles: Angles,
}

/// What a rotation is made of, for programs that make tables of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Angles {
    /// Radians per position of every pair, of sequences up to `limit`.
    pub frequencies: Vec<f64>,
    /// Factor of rotated queries and of rotated keys.
    pub attention_factor: f64,
    /// Longest sequence of these frequencies; `None` for any.
    pub limit: Option<i32>,
    /// Radians per position of every pair in longer sequences; `None` if they depend on the length.
    pub long_frequencies: Option<Vec<f64>>,
}

/// Rotation of sequences longer than `limit`.
#[derive(Debug, Clone)]
struct Beyond {
    limit: i32,
    rotation: LongRotation,
}

#[derive(Debug, Clone)]
enum LongRotation {
    /// The same for all of them.
    Fixed(RotaryFrequencies),
    /// Another one for each length.
    Growing { dynamic: Dynamic, theta: f64, dims: i32 },
}

impl Rope {
    /// Creates the embedding for heads of dimension `head_dim`, of which the first `dims` elements are
    /// rotated.
    #[must_use]
    pub fn new(head_dim: i32, dims: i32, theta: f64, scaling: &RopeScaling) -> Self {
        let powers = RotaryFrequencies::periods(theta, dims);
        let rotation = |periods: &[f64]| RotaryFrequencies::new(periods, scaling.position_scale());
        let fixed = scaling
            .long_context(&powers)
            .map(|(limit, periods)| Beyond { limit, rotation: LongRotation::Fixed(rotation(&periods)) });
        let beyond = match *scaling {
            RopeScaling::Dynamic(dynamic) => Some(Beyond {
                limit: dynamic.limit(),
                rotation: LongRotation::Growing { dynamic, theta, dims },
            }),
            _ => fixed,
        };
        // Queries and keys have the same factor, and only their products are used: queries take both.
        let factor = scaling.attention_factor().powi(2) as f32;
        let attention_factor = ((scaling.attention_factor() - 1.0).abs() > f64::EPSILON).then(|| {
            let factors: Vec<f32> = (0..head_dim).map(|i| if i < dims { factor } else { 1.0 }).collect();
            Array::from_slice(&factors, &[head_dim])
        });
        let frequencies = |periods: &[f64]| {
            periods.iter().map(|period| scaling.position_scale() / period).collect::<Vec<f64>>()
        };
        let periods = scaling.scale_periods(&powers, theta);
        let angles = Angles {
            frequencies: frequencies(&periods),
            attention_factor: scaling.attention_factor(),
            limit: beyond.as_ref().map(|beyond| beyond.limit),
            long_frequencies: scaling.long_context(&powers).map(|(_, periods)| frequencies(&periods)),
        };
        let rotation = rotation(&periods);
        Self { rotation, unscaled_periods: powers, beyond, attention_factor, angles }
    }

    /// What the rotation is made of.
    #[must_use]
    pub fn angles(&self) -> &Angles {
        &self.angles
    }

    /// `theta^(2i/dims)` of every pair: the periods of the rotation without scaling.
    #[must_use]
    pub fn unscaled_periods(&self) -> &[f64] {
        &self.unscaled_periods
    }

    fn beyond(&self, length: i32) -> Option<&Beyond> {
        self.beyond.as_ref().filter(|beyond| length > beyond.limit)
    }

    /// Returns the rotation for a sequence of `length` positions.
    #[must_use]
    pub fn rotation(&self, length: i32) -> RotaryFrequencies {
        match self.beyond(length).map(|beyond| &beyond.rotation) {
            None => self.rotation.clone(),
            Some(LongRotation::Fixed(rotation)) => rotation.clone(),
            Some(&LongRotation::Growing { dynamic, theta, dims }) => {
                let theta = dynamic.theta(theta, dims, length);
                RotaryFrequencies::new(&RotaryFrequencies::periods(theta, dims), 1.0)
            }
        }
    }

    /// Identifies the rotation for a sequence of `length` positions: lengths of the same number share it.
    #[must_use]
    pub fn variant(&self, length: i32) -> u32 {
        match self.beyond(length).map(|beyond| &beyond.rotation) {
            None => 0,
            Some(LongRotation::Fixed(_)) => 1,
            Some(LongRotation::Growing { .. }) => length.unsigned_abs(),
        }
    }

    /// Whether a sequence of `length` positions is the first that keys cached for shorter ones do not fit.
    /// With a base that grows, they stay as they are.
    #[must_use]
    pub fn invalidates_cache(&self, length: i32) -> bool {
        let fixed = self.beyond.as_ref().filter(|long| matches!(long.rotation, LongRotation::Fixed(_)));
        fixed.is_some_and(|long| length == long.limit.saturating_add(1))
    }

    /// Factor of queries before the rotation, `[head_dim]`.
    #[must_use]
    pub fn attention_factor(&self) -> Option<&Array> {
        self.attention_factor.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;
    use crate::kernels::rope::{Positions, rope};

    #[test]
    fn long_sequences_have_rotations_of_their_own() {
        let rope = |scaling: RopeScaling| Rope::new(4, 4, 100.0, &scaling);
        let longrope = serde_json::json!({
            "factor": 2.0, "original_max_position_embeddings": 16,
            "short_factor": [1.0, 1.0], "long_factor": [1.0, 2.0],
        });
        let longrope = rope(RopeScaling::Longrope(serde_json::from_value(longrope).unwrap()));
        let dynamic = serde_json::json!({"factor": 2.0, "max_position_embeddings": 16});
        let dynamic = rope(RopeScaling::Dynamic(serde_json::from_value(dynamic).unwrap()));
        let lengths = [15, 16, 17, 18];
        assert_eq!(lengths.map(|length| longrope.variant(length)), [0, 0, 1, 1]);
        assert_eq!(lengths.map(|length| dynamic.variant(length)), [0, 0, 17, 18]);
        assert_eq!(lengths.map(|length| longrope.invalidates_cache(length)), [false, false, true, false]);
        assert_eq!(lengths.map(|length| dynamic.invalidates_cache(length)), [false; 4]);
    }

    #[test]
    fn turns_by_stretched_position() {
        let linear = serde_json::from_value(serde_json::json!({"factor": 2.0})).unwrap();
        for (scaling, stretch) in [(RopeScaling::Default, 1.0), (RopeScaling::Linear(linear), 2.0)] {
            let turns = Rope::new(2, 2, 10_000.0, &scaling);
            let x = Array::from_slice(&[1.0_f32, 0.0, 1.0, 0.0], &[1, 2, 1, 2]);
            let (q, k) = rope(&x, &x, &turns.rotation(5), Positions::Offset(3)).unwrap();
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
}
