//! What the steps of a run share.

use std::time::Instant;

use mlx_rs::{Array, Dtype};

use crate::Result;
use crate::kernels::graphs::Graphs;
use crate::nn::Network;
use crate::train::plan::Plan;
use crate::train::task::Loss;

/// What a run keeps to repeat its steps.
pub(super) struct Stride {
    pub(super) passes: Graphs,
    pub(super) updates: Graphs,
    /// Whether the next step may begin before the figures of this one are known.
    pub(super) ahead: bool,
    /// Whether all figures so far are numbers, `[]`, bool, as the device knows.
    pub(super) finite: Option<Array>,
    /// When figures were last read.
    pub(super) read: Instant,
}

/// A step that was begun.
pub(super) struct Taken {
    pub(super) step: u64,
    pub(super) lr: f64,
    pub(super) started: Instant,
    pub(super) tokens: u64,
    pub(super) scored: Vec<Loss>,
    pub(super) grad_norm: Array,
}

impl Stride {
    pub(super) fn new<M: Network + ?Sized>(model: &M, plan: &Plan, hooked: bool) -> Result<Self> {
        let kept = plan.keep_graphs && !model.is_data_dependent();
        // Hooks, loss scales and other processes need numbers on the host within a step.
        let alone = !hooked && model.dtype() != Dtype::Float16 && plan.group.size() == 1;
        Ok(Self {
            passes: Graphs::new(kept)?,
            updates: Graphs::new(kept)?,
            ahead: kept && alone,
            finite: None,
            read: Instant::now(),
        })
    }
}
