//! Cross-entropy over the target tokens of a batch.

use mlx_rs::{Array, Dtype};

use crate::nn::Result;

/// Sum over all positions of `weights · -log softmax(logits)[targets]`, in f32 nats.
///
/// `logits`: `[batch, time, vocab]`; `targets`, `weights`: `[batch, time]` → `[]`. A sum, not a
/// mean, so that accumulated batches can be divided by their common number of tokens.
///
/// # Errors
/// Shapes that do not fit.
pub fn cross_entropy(logits: &Array, targets: &Array, weights: &Array) -> Result<Array> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    let chosen = logits.take_along_axis(targets.expand_dims(-1)?, -1)?.squeeze_axes(&[-1])?;
    let surprise = logits.logsumexp_axis(-1, false)?.subtract(chosen)?;
    surprise.multiply(weights)?.sum(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    #[test]
    fn equals_the_definition_and_skips_masked_targets() {
        let logits = [[1.0_f32, 2.0, 0.5], [0.0, -1.0, 3.0]];
        let loss = cross_entropy(
            &Array::from_slice(&logits.concat(), &[1, 2, 3]),
            &Array::from_slice(&[1_i32, 0], &[1, 2]),
            &Array::from_slice(&[1.0_f32, 0.0], &[1, 2]),
        )
        .unwrap();
        eval([&loss]).unwrap();
        let total: f32 = logits[0].iter().map(|x| x.exp()).sum();
        assert!((loss.item_exact::<f32>() - (total.ln() - 2.0)).abs() < 1e-6);
    }
}
