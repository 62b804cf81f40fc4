//! Predictions of the original model on a few calibration sequences, by which changes of single layers are judged.

use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};

use super::BlockStream;
use crate::models::Model;
use crate::progress::Observer;
use crate::{Result, kernels};

/// Positions at which predictions are compared.
const POSITIONS: usize = 1024;
/// Bounds on the logits of all these positions, 512 MiB in float32, and on those computed at once.
const MAX_LOGITS: usize = 1 << 27;
const MAX_LOGITS_AT_ONCE: usize = 1 << 24;
/// Sequences on which layers are calibrated.
const SEQUENCES: usize = 16;

/// Sequences on which layers are calibrated, and others on which predictions are compared: as many as there is room for.
#[must_use]
pub fn hold_out(sequences: &[Vec<u32>], vocab: usize) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let length = sequences.first().map_or(1, Vec::len);
    let positions = POSITIONS.min(MAX_LOGITS / vocab).max(2);
    let count = (positions / length).clamp(1, sequences.len().div_ceil(2));
    let (seen, judged) = sequences.split_at(sequences.len() - count);
    let judged: Vec<Vec<u32>> = judged.iter().map(|ids| ids[..length.min(positions)].to_vec()).collect();
    let seen = if seen.is_empty() { sequences } else { seen };
    (seen[..seen.len().min(SEQUENCES)].to_vec(), judged)
}

/// Predictions of a model, to compare those of a changed one with.
#[derive(Debug)]
pub struct Reference {
    /// The sequences that it was asked about.
    pub sequences: Vec<Vec<u32>>,
    /// Log-probabilities, `[positions, vocab]` each.
    predictions: Vec<Array>,
}

impl Reference {
    /// Predicts the next tokens of `sequences`.
    ///
    /// # Errors
    /// Errors from MLX; [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn of(model: &Model, sequences: Vec<Vec<u32>>, observer: &mut dyn Observer) -> Result<Self> {
        let mut predictions = Vec::new();
        predict(model, BlockStream::start(model, &sequences)?, observer, &mut |logs| {
            predictions.push(logs);
            Ok(())
        })?;
        Ok(Self { sequences, predictions })
    }

    /// Mean Kullback–Leibler divergence of what `model` predicts from `stream` on, the sequences in front of a block.
    ///
    /// # Errors
    /// Errors from MLX; [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn divergence(&self, model: &Model, stream: BlockStream, observer: &mut dyn Observer) -> Result<f64> {
        let (mut sum, mut positions, mut expected) = (0.0, 0, self.predictions.iter());
        predict(model, stream, observer, &mut |q| {
            let Some(p) = expected.next() else { return Ok(()) };
            let kl = p.exp()?.multiply(p.subtract(&q)?)?.sum_axis(-1, false)?;
            kernels::eval([&kl])?;
            sum += kl.as_slice::<f32>().iter().map(|&kl| f64::from(kl.max(0.0))).sum::<f64>();
            positions += kl.size();
            Ok(())
        })?;
        Ok(sum / positions.max(1) as f64)
    }
}

/// Calls `see` with the log-probabilities of the next token at some positions of `stream` at a time, `[positions, vocab]`.
fn predict(
    model: &Model,
    mut stream: BlockStream,
    observer: &mut dyn Observer,
    see: &mut dyn FnMut(Array) -> Result<()>,
) -> Result<()> {
    while stream.block() < model.block_count() {
        stream.advance(model, observer)?;
    }
    let step = (MAX_LOGITS_AT_ONCE / model.vocab_size() as usize).max(1);
    for x in stream.batches() {
        let hidden = model.apply_final_norm(x)?;
        let hidden = hidden.reshape(&[-1, hidden.dim(-1)])?;
        for start in (0..hidden.dim(0)).step_by(step) {
            let positions = start..hidden.dim(0).min(start + step as i32);
            let logits = model.logits(&hidden.try_index((positions, ..))?)?.as_dtype(Dtype::Float32)?;
            let logs = logits.subtract(logits.logsumexp_axis(-1, true)?)?;
            kernels::eval([&logs])?;
            see(logs)?;
        }
    }
    Ok(())
}
