//! `L = Σ_ij log(1 + exp(-z_ij·l_ij))` with `z_ij` 1 for pairs and -1 for all others, and the logits
//! `l_ij = exp(s)·x_i·y_j + b` ([SigLIP](https://arxiv.org/abs/2303.15343)).
//!
//! Since `log(1 + exp(-l)) = log(1 + exp(l)) - l`, it is the sum over all `log(1 + exp(l))`, less the logits of pairs. The
//! former is computed for some images at a time and again for the gradient, so that never the whole matrix is held.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::logaddexp;
use mlx_rs::{Array, Dtype};

use super::Similarity;
use crate::kernels::checkpoint::checkpoint;
use crate::kernels::matmul::{Transpose, matmul};
use crate::nn;

/// Images at a time.
const CHUNK: i32 = 256;

pub(super) fn sum(similarity: &Similarity) -> nn::Result<Array> {
    let &Similarity { images, texts, logit_scale, logit_bias } = similarity;
    let zero = Array::from_f32(0.0).as_dtype(Dtype::Float32)?;
    let bias = logit_bias.unwrap_or(&zero);
    let scaled = images.multiply(logit_scale.exp()?)?;
    let pairs = scaled.multiply(texts)?.sum(None)?;
    let count = Array::from_f32(images.dim(0) as f32);
    let mut sum = pairs.add(bias.multiply(count)?)?.negative()?;
    for start in (0..images.dim(0)).step_by(CHUNK as usize) {
        let chunk = scaled.try_index(start..images.dim(0).min(start + CHUNK))?;
        let outputs = checkpoint(&[chunk, texts.clone(), bias.clone()], |inputs| {
            let [images, texts, bias] = inputs else { return Err(Exception::custom("three inputs")) };
            let logits = matmul(images, texts, Transpose::B)?.add(bias)?;
            Ok(vec![logaddexp(&logits, Array::from_f32(0.0))?.sum(None)?])
        })?;
        sum = sum.add(&outputs[0])?;
    }
    Ok(sum)
}
