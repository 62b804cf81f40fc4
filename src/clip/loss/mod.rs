//! Losses over the pairs of a batch: features of unit length, `[pairs, dim]`, of images and of their texts.

mod info_nce;
mod siglip;

use mlx_rs::Array;
use serde::{Deserialize, Serialize};

use crate::models::clip::{Clip, Kind};
use crate::nn;

/// A contrastive loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// Cross-entropy of finding the text of each image, and the image of each text
    /// ([CLIP](https://arxiv.org/abs/2103.00020)).
    InfoNce,
    /// Binary cross-entropy of every pair of an image and a text ([SigLIP](https://arxiv.org/abs/2303.15343)).
    Siglip,
}

/// Features of a batch, and how they become logits.
pub(super) struct Similarity<'a> {
    pub images: &'a Array,
    pub texts: &'a Array,
    /// Logarithm of the factor, a scalar in float32.
    pub logit_scale: &'a Array,
    /// Added, a scalar in float32.
    pub logit_bias: Option<&'a Array>,
}

impl LossKind {
    /// The loss that a model of this `kind` was trained with.
    #[must_use]
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Clip => Self::InfoNce,
            Kind::Siglip => Self::Siglip,
        }
    }

    /// The sum of the losses of all pairs, a scalar in float32.
    ///
    /// # Errors
    /// Incompatible shapes.
    pub(super) fn sum(self, similarity: &Similarity) -> nn::Result<Array> {
        match self {
            Self::InfoNce => info_nce::sum(similarity),
            Self::Siglip => siglip::sum(similarity),
        }
    }

    /// Checks that `model` has what the loss needs.
    ///
    /// # Errors
    /// The way out.
    pub(super) fn check(self, model: &Clip) -> crate::Result<()> {
        if self == Self::Siglip && model.logit_bias().is_none() {
            return Err(crate::Error::Config(
                "loss is \"siglip\", but the model has no logit_bias: nearly all pairs are negative, and without it \
                 training would first have to unlearn the temperature; use \"info_nce\""
                    .into(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    const IMAGES: [f32; 6] = [1.0, 0.0, 0.6, 0.8, -0.8, 0.6];
    const TEXTS: [f32; 6] = [0.8, 0.6, 0.0, 1.0, -1.0, 0.0];

    /// Logits in f64.
    fn logits(scale: f64, bias: f64) -> [[f64; 3]; 3] {
        let dot =
            |i: usize, j: usize| (0..2).map(|k| f64::from(IMAGES[2 * i + k] * TEXTS[2 * j + k])).sum::<f64>();
        std::array::from_fn(|i| std::array::from_fn(|j| scale.exp() * dot(i, j) + bias))
    }

    fn sum(kind: LossKind, scale: f32, bias: Option<f32>) -> f64 {
        let [images, texts] = [IMAGES, TEXTS].map(|x| Array::from_slice(&x, &[3, 2]));
        let (scale, bias) = (Array::from_f32(scale), bias.map(Array::from_f32));
        let similarity =
            Similarity { images: &images, texts: &texts, logit_scale: &scale, logit_bias: bias.as_ref() };
        let sum = kind.sum(&similarity).unwrap();
        eval([&sum]).unwrap();
        f64::from(sum.item_exact::<f32>())
    }

    #[test]
    fn info_nce_is_the_mean_of_both_directions() {
        let logits = logits(1.5, 0.0);
        let lse = |x: [f64; 3]| x.iter().map(|x| x.exp()).sum::<f64>().ln();
        let expected: f64 = (0..3)
            .map(|i| 0.5 * (lse(logits[i]) + lse([0, 1, 2].map(|j| logits[j][i]))) - logits[i][i])
            .sum();
        assert!((sum(LossKind::InfoNce, 1.5, None) - expected).abs() < 1e-5);
    }

    #[test]
    fn siglip_counts_every_pair() {
        let logits = logits(2.0, -3.0);
        let expected: f64 = (0..9)
            .map(|k| {
                let (i, j) = (k / 3, k % 3);
                let sign = if i == j { 1.0 } else { -1.0 };
                (1.0 + (-sign * logits[i][j]).exp()).ln()
            })
            .sum();
        assert!((sum(LossKind::Siglip, 2.0, Some(-3.0)) - expected).abs() < 1e-5);
    }
}
