//! Divergence and entropy at each position, a limited number of positions at a time.

use mlx_rs::ops::indexing::{Ellipsis, IndexOp as _};
use mlx_rs::ops::{concatenate, maximum};
use mlx_rs::{Array, Dtype};

use super::divergence::Divergence;
use crate::kernels::chunked_logits::LayerParts;
use crate::kernels::linear::linears;
use crate::kernels::softcap::softcap;
use crate::models::Model;
use crate::nn;

/// Maximum number of logits at once, 32 MiB in f32: the loss has some ten arrays of that size.
const LOGITS: usize = 1 << 23;
/// Probabilities of all other tokens together below this are not told apart.
const MIN_REST: f32 = 1e-6;

/// Where the log-probabilities of the teacher come from, given its operands of some positions.
#[derive(Clone)]
pub(super) enum TeacherHead {
    /// Of hidden states, `[positions, hidden]`.
    Live { parts: LayerParts, arrays: Vec<Array>, softcap: Option<f32> },
    /// Of the most likely tokens and their log-probabilities, both `[positions, top_k]`. All other tokens count as one.
    Listed,
}

/// What is computed at each position.
#[derive(Clone)]
pub(super) struct Positions {
    pub teacher: TeacherHead,
    pub divergence: Divergence,
    pub temperature: f32,
    /// Number of tokens that both models know; embeddings of padding follow.
    pub vocab: i32,
}

impl Positions {
    /// Computes the divergence, `[positions]`, given hidden states of the `student`, `[positions, hidden]`, and the operands of
    /// the teacher.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn divergences(
        &self,
        student: &Model,
        hidden: &Array,
        teacher: &[Array],
        gradient: bool,
    ) -> nn::Result<Array> {
        let (this, cap) = (self.clone(), student.softcap());
        student.head().map_logits(hidden, teacher, (LOGITS, gradient), move |logits, teacher| {
            let logits = this.scaled(logits, cap)?;
            let (p, q) = this.log_probabilities(&logits, teacher)?;
            this.divergence.of(&p, &q)
        })
    }

    /// Computes the entropy of the predictions of the `student` in nats, `[positions]`, given its hidden states.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn entropies(&self, student: &Model, hidden: &Array) -> nn::Result<Array> {
        let (this, cap) = (self.clone(), student.softcap());
        student.head().map_logits(hidden, &[], (LOGITS, false), move |logits, _| {
            let log_q = log_softmax(&this.scaled(logits, cap)?)?;
            log_q.exp()?.multiply(&log_q)?.sum_axis(-1, false)?.negative()
        })
    }

    /// The most likely tokens of the teacher, and their log-probabilities, both `[positions·top_k]`, given its hidden states
    /// before the head of `model`.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn most_likely(&self, model: &Model, hidden: &Array, top_k: i32) -> nn::Result<[Array; 2]> {
        let log_p = log_softmax(&self.scaled(&model.head().forward(hidden)?, model.softcap())?)?;
        let order = mlx_rs::ops::argpartition_axis(log_p.negative()?, top_k - 1, -1)?;
        let tokens = order.index((Ellipsis, ..top_k));
        let log_probs = log_p.take_along_axis(&tokens, -1)?;
        Ok([tokens.reshape(&[-1])?, log_probs.reshape(&[-1])?])
    }

    /// Number of positions whose logits are computed at once.
    pub(super) fn at_once(&self) -> usize {
        (LOGITS / self.vocab.max(1) as usize).max(1)
    }

    /// Logits of the tokens that both models know, divided by the temperature.
    fn scaled(&self, logits: &Array, cap: Option<f32>) -> nn::Result<Array> {
        let mut logits = logits.as_dtype(Dtype::Float32)?;
        if logits.dim(-1) > self.vocab {
            logits = logits.index((Ellipsis, ..self.vocab));
        }
        if let Some(cap) = cap {
            logits = softcap(&logits, cap)?;
        }
        logits.multiply(Array::from_f32(self.temperature.recip()))
    }

    /// Log-probabilities of teacher and student, `[positions, n]`.
    fn log_probabilities(&self, student: &Array, teacher: &[Array]) -> nn::Result<(Array, Array)> {
        match (&self.teacher, teacher) {
            (TeacherHead::Live { parts, arrays, softcap }, [hidden]) => {
                let logits = linears(hidden, &[parts.layer(arrays)?])?.swap_remove(0);
                Ok((log_softmax(&self.scaled(&logits, *softcap)?)?, log_softmax(student)?))
            }
            (TeacherHead::Listed, [tokens, log_probs]) => {
                let total = student.logsumexp_axis(-1, true)?;
                let found = student.take_along_axis(tokens, -1)?.subtract(total)?;
                Ok((with_rest(log_probs)?, with_rest(&found)?))
            }
            _ => Err(mlx_rs::error::Exception::custom("a teacher without its operands")),
        }
    }
}

fn log_softmax(logits: &Array) -> nn::Result<Array> {
    logits.subtract(logits.logsumexp_axis(-1, true)?)
}

/// Appends the log-probability of all other tokens.
fn with_rest(log_probs: &Array) -> nn::Result<Array> {
    let listed = log_probs.exp()?.sum_axis(-1, true)?;
    let rest = maximum(Array::from_f32(1.0).subtract(listed)?, Array::from_f32(MIN_REST))?;
    concatenate(&[log_probs, &rest.log()?], -1)
}
