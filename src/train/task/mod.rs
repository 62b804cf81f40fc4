//! Training tasks: the interface between the training loop and what is trained.
//!
//! ```text
//! Data ─ batches ─► Batch ─ Task::inputs ─► Inputs ─ Task::loss ─► Loss ─► gradients ─► optimizer
//! ```
//! The loop accumulates and clips gradients, resumes, splits batches when memory is short, reuses graphs and
//! synchronises processes. A task defines what its rows mean.

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

/// A loss function over batches of one type.
pub trait Task {
    /// The model to train.
    type Model: Network + ?Sized;
    /// The batch type.
    type Batch: Batch;

    /// Replaces the `batches` of a step, each of which is in parts, before anything else is done with them; `first` is the
    /// number of the first one. The result must depend on the arguments and the parameters of `model` only.
    ///
    /// # Errors
    /// Errors from MLX.
    fn prepare(
        &self,
        _model: &Self::Model,
        batches: Vec<Vec<Self::Batch>>,
        _first: u64,
    ) -> Result<Vec<Vec<Self::Batch>>> {
        Ok(batches)
    }

    /// Returns the contribution of `batch` to the denominators of the loss of a step.
    fn totals(&self, batch: &Self::Batch) -> Totals;

    /// Converts `batch` to arrays for `model`. The loss is to be divided by `totals`, those of the whole step.
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

    /// Computes the loss of `inputs`, not evaluated. `gradient` tells whether a gradient will be taken. The result
    /// must depend on the parameters of `model` and on the arrays of `inputs` only, because its graph may be
    /// reused for other inputs.
    ///
    /// # Errors
    /// Errors from MLX.
    fn loss(&self, model: &mut Self::Model, inputs: &Inputs, gradient: bool) -> nn::Result<Loss>;

    /// Returns the perplexity of a loss that is a mean negative log-likelihood, else `None`.
    fn perplexity(&self, _loss: f64) -> Option<f64> {
        None
    }
}

/// Denominators of the loss of a step: two counts whose meaning is defined by the task, such as target tokens and
/// pairs.
///
/// All batches of a step share them, so that the loss does not depend on how a step is split into batches.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals(pub [f64; 2]);

impl std::ops::Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self([self.0[0] + other.0[0], self.0[1] + other.0[1]])
    }
}

/// Options of a forward pass; the default is that of an evaluation.
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardOptions {
    /// Factor that multiplies the gradient, but not the reported loss, in float16.
    pub loss_scale: Option<f32>,
    /// Whether to pad rows to a multiple of a fixed length, so that batches share graphs.
    pub pad_for_graphs: bool,
    /// Seed and path `[micro-batch, part, rank]` of random numbers; `None` disables dropout and noise.
    pub rng_path: Option<(u64, [u64; 3])>,
    /// Whether only memory is measured, so that values do not matter.
    pub is_probe: bool,
}

/// The loss of a batch, not evaluated.
pub struct Loss {
    /// Contribution to the loss of the step, a scalar in float32.
    pub value: Array,
    /// Reward of each row of preference pairs, `[rows]` in float32.
    pub rewards: Option<Array>,
}

impl Loss {
    /// Iterates over all arrays.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        std::iter::once(&self.value).chain(&self.rewards)
    }
}
