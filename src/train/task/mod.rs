//! What is learned: the seam between the training loop and everything that can be trained.
//!
//! ```text
//! Data ─ batches ─► Batch ─ Task::inputs ─► Inputs ─ Task::loss ─► Loss ─► gradients ─► optimizer
//! ```
//! The loop knows how to accumulate, clip, resume, divide a batch when memory is short, keep graphs and work in several
//! processes. A task knows what its rows mean.

pub mod batch;
pub mod data;
pub mod inputs;
pub mod max_tokens;
pub mod rewards;

use batch::Batch;
use inputs::Inputs;
use mlx_rs::Array;

use crate::nn::Network;
use crate::{Result, nn};

/// A loss over batches of one kind.
pub trait Task {
    /// What is trained.
    type Model: Network + ?Sized;
    /// Rows that go through the model at once.
    type Batch: Batch;

    /// What `batch` adds to the divisors of a step's loss.
    fn totals(&self, batch: &Self::Batch) -> Totals;

    /// `batch` as arrays for `model`; its loss is to be divided by `totals`, those of the whole step.
    ///
    /// # Errors
    /// Rows that do not fit together.
    fn inputs(
        &self,
        model: &Self::Model,
        batch: &Self::Batch,
        totals: Totals,
        options: &ForwardOptions,
    ) -> Result<Inputs>;

    /// The loss of `inputs`, unevaluated; with `gradient`, one may be asked for. It must depend on the parameters of
    /// `model` and on the arrays of `inputs` alone, since its graph may be reused for others.
    ///
    /// # Errors
    /// What MLX raises.
    fn loss(&self, model: &mut Self::Model, inputs: &Inputs, gradient: bool) -> nn::Result<Loss>;

    /// The perplexity that a loss stands for, where it is a mean negative log-likelihood.
    fn perplexity(&self, _loss: f64) -> Option<f64> {
        None
    }
}

/// What the losses of a step are divided by: two counts, to which the task gives their meaning, such as tokens and pairs.
///
/// The losses of all batches of a step share them, so that it does not matter how a step is divided into batches.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals(pub [f64; 2]);

impl std::ops::Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self([self.0[0] + other.0[0], self.0[1] + other.0[1]])
    }
}

/// How one batch goes through the model; by default as in an evaluation.
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardOptions {
    /// The factor of the gradient, but not of the loss, in float16.
    pub loss_scale: Option<f32>,
    /// Whether rows are to be padded to a multiple of some length, so that batches share graphs.
    pub pad_for_graphs: bool,
    /// Seed, and micro-batch, part of it and process, from which random numbers are drawn; `None` to draw none.
    pub rng_path: Option<(u64, [u64; 3])>,
}

/// The loss of a batch, unevaluated.
pub struct Loss {
    /// Its share in the loss of the step: a scalar, float32.
    pub value: Array,
    /// Of pairs of a chosen and a rejected row: the reward of each row, `[rows]`, float32.
    pub rewards: Option<Array>,
}

impl Loss {
    /// All arrays.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        std::iter::once(&self.value).chain(&self.rewards)
    }
}
