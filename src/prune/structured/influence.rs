//! Block influence ([ShortGPT](https://arxiv.org/abs/2403.03853)): how much a block changes the direction of the residual
//! stream. With the stream `x` in front of a block and `y` behind it,
//!
//! ```text
//! influence = 1 − mean over tokens of  x·y / (‖x‖·‖y‖)
//! ```

use std::collections::VecDeque;

use mlx_rs::{Array, Dtype};

use crate::calibrate::BlockStream;
use crate::models::Model;
use crate::progress::Observer;
use crate::prune::progress::progress;
use crate::{Result, kernels};

/// Influences on calibration text.
#[derive(Debug, Clone)]
pub(super) struct Influence {
    /// Of each block.
    pub blocks: Vec<f64>,
    /// Of `span` consecutive blocks together, by the first of them.
    pub spans: Vec<f64>,
}

impl Influence {
    /// Measures every block of `model`, and all `span` consecutive ones.
    ///
    /// # Errors
    /// Errors from MLX; [`Error::Interrupted`](crate::Error::Interrupted).
    pub(super) fn measure(
        model: &Model,
        sequences: &[Vec<u32>],
        span: usize,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let count = model.block_count();
        let (mut blocks, mut spans) = (vec![0.0; count], vec![0.0; count + 1 - span]);
        let stream = BlockStream::start(model, sequences)?;
        let total = stream.batches().len() * count;
        let (mut tokens, mut done) = (0, 0);
        for x in stream.batches() {
            tokens += (x.dim(0) * x.dim(1)) as usize;
            // What stands in front of the last `span` blocks.
            let mut before = VecDeque::from([x.clone()]);
            for block in 0..count {
                let x = &before[before.len() - 1];
                let y = model.apply_block(block, x)?;
                kernels::eval([&y])?;
                blocks[block] += cosines(x, &y)?;
                if before.len() == span {
                    spans[block + 1 - span] += cosines(&before[0], &y)?;
                    before.pop_front();
                }
                before.push_back(y);
                done += 1;
                progress(observer, "influence", done, total)?;
            }
        }
        let influence = |cosines: Vec<f64>| cosines.iter().map(|sum| 1.0 - sum / tokens as f64).collect();
        Ok(Self { blocks: influence(blocks), spans: influence(spans) })
    }
}

/// Sum over tokens of the cosine of `x` and `y`, `[batch, time, hidden]`.
fn cosines(x: &Array, y: &Array) -> Result<f64> {
    let (x, y) = (x.as_dtype(Dtype::Float32)?, y.as_dtype(Dtype::Float32)?);
    let sum = |a: &Array, b: &Array| a.multiply(b)?.sum_axis(-1, false);
    let norms = sum(&x, &x)?.sqrt()?.multiply(sum(&y, &y)?.sqrt()?)?;
    let tiny = Array::from_f32(f32::MIN_POSITIVE);
    let total = sum(&x, &y)?.divide(mlx_rs::ops::maximum(&norms, &tiny)?)?.sum(None)?;
    kernels::eval([&total])?;
    Ok(f64::from(total.item_exact::<f32>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_are_summed_over_tokens() {
        let x = Array::from_slice(&[3.0_f32, 0.0, 1.0, 1.0, 0.0, 0.0], &[1, 3, 2]);
        let y = Array::from_slice(&[5.0_f32, 0.0, 0.0, 2.0, 1.0, 1.0], &[1, 3, 2]);
        // 1, cos 45° and, of a stream of zeros, 0.
        let found = cosines(&x, &y).unwrap();
        assert!((found - (1.0 + 0.5_f64.sqrt())).abs() < 1e-6, "{found}");
    }
}
