//! Rotary position embeddings ([RoPE](https://arxiv.org/abs/2104.09864)), half-split layout.

use mlx_rs::Array;

use super::rope_scaling::RopeScaling;
use crate::kernels::rope::RotaryFrequencies;

/// Rotates the pairs `(x[i], x[i + dims/2])` of the first `dims` elements of a head by `position ·
/// theta^(-2i/dims)`, with the scaling of the checkpoint.
#[derive(Debug, Clone)]
pub struct Rope {
    rotation: RotaryFrequencies,
    /// Periods without scaling.
    unscaled_periods: Vec<f64>,
    /// Sequence length above which another rotation applies, and that rotation.
    long: Option<(i32, RotaryFrequencies)>,
    /// Factor of queries, `[head_dim]`.
    attention_factor: Option<Array>,
}

impl Rope {
    /// Creates the embedding for heads of dimension `head_dim`, of which the first `dims` elements are
    /// rotated.
    #[must_use]
    pub fn new(head_dim: i32, dims: i32, theta: f64, scaling: &RopeScaling) -> Self {
        let powers = RotaryFrequencies::periods(theta, dims);
        let rotation = |periods: &[f64]| RotaryFrequencies::new(periods, scaling.position_scale());
        let long = scaling.long_context(&powers).map(|(limit, periods)| (limit, rotation(&periods)));
        // Queries and keys have the same factor, and only their products are used: queries take both.
        let factor = scaling.attention_factor().powi(2) as f32;
        let attention_factor = ((scaling.attention_factor() - 1.0).abs() > f64::EPSILON).then(|| {
            let factors: Vec<f32> = (0..head_dim).map(|i| if i < dims { factor } else { 1.0 }).collect();
            Array::from_slice(&factors, &[head_dim])
        });
        let rotation = rotation(&scaling.scale_periods(&powers, theta));
        Self { rotation, unscaled_periods: powers, long, attention_factor }
    }

    /// `theta^(2i/dims)` of every pair: the periods of the rotation without scaling.
    #[must_use]
    pub fn unscaled_periods(&self) -> &[f64] {
        &self.unscaled_periods
    }

    /// Longest sequence that the short-context rotation applies to; `None` if all lengths are treated alike.
    #[must_use]
    pub fn long_rope_threshold(&self) -> Option<i32> {
        self.long.as_ref().map(|(limit, _)| *limit)
    }

    /// Returns the rotation for a sequence of `length` positions.
    #[must_use]
    pub fn rotation(&self, length: i32) -> &RotaryFrequencies {
        match &self.long {
            Some((limit, rotation)) if length > *limit => rotation,
            _ => &self.rotation,
        }
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
    fn turns_by_stretched_position() {
        for (scaling, stretch) in [(RopeScaling::Default, 1.0), (RopeScaling::Linear { factor: 2.0 }, 2.0)] {
            let turns = Rope::new(2, 2, 10_000.0, &scaling);
            let x = Array::from_slice(&[1.0_f32, 0.0, 1.0, 0.0], &[1, 2, 1, 2]);
            let (q, k) = rope(&x, &x, turns.rotation(5), Positions::Offset(3)).unwrap();
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
