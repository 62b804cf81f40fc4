//! State of asynchronous steps.

use std::time::Instant;

use mlx_rs::{Array, Dtype};

use crate::Result;
use crate::kernels::graphs::Graphs;
use crate::nn::Network;
use crate::train::plan::Plan;
use crate::train::task::Loss;

/// Graphs reused by all steps, and the state of asynchronous execution.
pub(super) struct StepPipeline {
    pub(super) gradient_graphs: Graphs,
    pub(super) update_graphs: Graphs,
    /// Whether the next step may be queued before the metrics of this one are known.
    pub(super) is_async: bool,
    /// Whether all metrics so far are finite, a boolean scalar on the device.
    pub(super) all_finite: Option<Array>,
    /// When metrics were last read.
    pub(super) last_read: Instant,
}

/// A step that has been queued on the device.
pub(super) struct PendingStep {
    pub(super) step: u64,
    pub(super) lr: f64,
    pub(super) started: Instant,
    pub(super) tokens: u64,
    pub(super) losses: Vec<Loss>,
    pub(super) grad_norm: Array,
}

impl StepPipeline {
    pub(super) fn new<M: Network + ?Sized>(model: &M, plan: &Plan, has_hooks: bool) -> Result<Self> {
        let keeps_graphs = plan.keep_graphs && !model.is_data_dependent();
        // Hooks, loss scales and other processes need numbers on the host within a step.
        let is_independent = !has_hooks && model.dtype() != Dtype::Float16 && plan.group.size() == 1;
        Ok(Self {
            gradient_graphs: Graphs::new(keeps_graphs)?,
            update_graphs: Graphs::new(keeps_graphs)?,
            is_async: keeps_graphs && is_independent,
            all_finite: None,
            last_read: Instant::now(),
        })
    }
}
