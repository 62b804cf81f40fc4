//! What is learned: the seam between the training loop and everything that can be trained.
//!
//! ```text
//! Data ─ batches ─► Batch ─ Task::inputs ─► Inputs ─ Task::loss ─► Loss ─► gradients ─► optimizer
//! ```
//! The loop knows how to accumulate, clip, resume, divide a batch when memory is short, keep graphs and work in several
//! processes. A task knows what its rows mean.

use std::ops::Range;
use std::thread::Scope;

use mlx_rs::Array;

use super::inputs::Inputs;
use super::memory::PassSize;
use super::plan::Plan;
use crate::kernels::group::Group;
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
    fn inputs(&self, model: &Self::Model, batch: &Self::Batch, totals: Totals, pass: &Pass)
    -> Result<Inputs>;

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
pub struct Pass {
    /// The factor of the gradient, but not of the loss, in float16.
    pub scale: Option<f32>,
    /// Whether rows are to be padded to a multiple of some length, so that batches share graphs.
    pub pad_for_graphs: bool,
    /// Seed, and micro-batch, part of it and process, from which random numbers are drawn; `None` to draw none.
    pub random: Option<(u64, [u64; 3])>,
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

/// Rows that go through a model at once.
pub trait Batch {
    /// Number of rows.
    fn rows(&self) -> usize;

    /// What a row costs: its tokens, padding included; 1 where all rows have one size.
    fn row_length(&self) -> usize;

    /// Tokens that are read, or rows where there are no tokens; padding not counted.
    fn tokens(&self) -> usize;

    /// Whether fewer rows can go through the model at once with the same result.
    fn is_divisible(&self) -> bool;
}

/// Rows to train on and rows to score.
pub trait Data {
    /// Rows that go through the model at once.
    type Batch: Batch;

    /// Examples to train on.
    fn len(&self) -> usize;

    /// Whether there is nothing to train on.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of one example.
    fn rows_per_example(&self) -> usize {
        1
    }

    /// The endless sequence of training batches, of which the first to be asked for is number `first`. Work in the
    /// background belongs to `scope`.
    fn batches<'scope, 'env>(
        &'env self,
        plan: &Plan,
        first: u64,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Box<dyn Batches<Batch = Self::Batch> + 'env>;

    /// Whether there are rows to score.
    fn has_validation(&self) -> bool;

    /// The validation batches that the processes of `group` score, of which this one reads its share, each in parts of at
    /// most `size`.
    fn validation<'a>(
        &'a self,
        plan: &'a Plan,
        group: Group,
        size: PassSize,
    ) -> Box<dyn Iterator<Item = Self::Batch> + 'a>;

    /// [Length](Batch::row_length) of the longest row to train on.
    fn longest_row(&self) -> usize;

    /// One row of `length`, at most [`longest_row`](Self::longest_row), for measuring memory.
    fn probe(&self, length: usize) -> Self::Batch;
}

/// Training batches by number. A batch depends on its number alone, so that a resumed run continues where the first one
/// stopped.
pub trait Batches {
    /// Rows that go through the model at once.
    type Batch;

    /// This process's share of the batches of these numbers, each in parts of at most `size`. Numbers never fall, but may
    /// be asked for again.
    ///
    /// # Errors
    /// Rows that cannot be read or are wrong, by file and place.
    fn get(&mut self, numbers: Range<u64>, size: PassSize) -> Result<Vec<Vec<Self::Batch>>>;

    /// Passes over the data before batch `number`, one of those that [`get`](Self::get) returned last or the next,
    /// fractional.
    fn epoch(&self, number: u64) -> f64;
}
