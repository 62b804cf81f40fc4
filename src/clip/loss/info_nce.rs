//! `L = -1/2 Σ_i [ log softmax_j(l_ij)_i + log softmax_j(l_ji)_i ]` with the logits `l_ij = exp(s)·x_i·y_j`
//! ([InfoNCE](https://arxiv.org/abs/1807.03748), symmetric as in [CLIP](https://arxiv.org/abs/2103.00020)).

use mlx_rs::Array;

use super::Similarity;
use crate::kernels::matmul::{Transpose, matmul};
use crate::nn;

pub(super) fn sum(similarity: &Similarity) -> nn::Result<Array> {
    let &Similarity { images, texts, logit_scale, .. } = similarity;
    let scaled = images.multiply(logit_scale.exp()?)?;
    // A bias would change nothing.
    let logits = matmul(&scaled, texts, Transpose::B)?;
    let rows = logits.logsumexp_axis(1, None)?.sum(None)?;
    let columns = logits.logsumexp_axis(0, None)?.sum(None)?;
    let own = scaled.multiply(texts)?.sum(None)?;
    rows.add(columns)?.multiply(Array::from_f32(0.5))?.subtract(own)
}
