//! Scoring a model on held-out data.

use std::ops::ControlFlow;

use super::batches::divide;
use super::memory::PassSize;
use super::step;
use crate::data::Sample;
use crate::models::Model;
use crate::progress::Observer;
use crate::{Error, Result, kernels};

/// Mean cross-entropy per target token, in nats, over the first `max_batches` batches of
/// `batch_size` (0: all of them), of which `size` goes through the model at once.
///
/// # Errors
/// What MLX raises; [`Error::Interrupted`] when the observer stops it.
pub fn evaluate(
    model: &dyn Model,
    samples: &[Sample],
    plan: EvaluationPlan,
    size: PassSize,
    observer: &mut dyn Observer,
) -> Result<f64> {
    let (mut total, mut tokens) = (0.0, 0.0);
    let limit = if plan.max_batches == 0 { usize::MAX } else { plan.max_batches };
    for rows in samples.chunks(plan.batch_size).take(limit) {
        for batch in divide(&rows.iter().collect::<Vec<_>>(), plan, size) {
            if observer.poll() == ControlFlow::Break(()) {
                return Err(Error::Interrupted);
            }
            let loss = step::loss(model, &batch)?;
            kernels::eval([&loss])?;
            total += f64::from(loss.item_exact::<f32>());
            tokens += batch.weights.iter().map(|&weight| f64::from(weight)).sum::<f64>();
        }
    }
    Ok(total / tokens)
}

/// How [`evaluate`] cuts the data.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationPlan {
    /// Rows per forward pass.
    pub batch_size: usize,
    /// Batches scored; 0 for all.
    pub max_batches: usize,
    /// Tokens per row beyond which a row is cut.
    pub max_seq_length: usize,
    /// Token that fills short rows.
    pub pad: u32,
}
