//! What pruning did.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What was done to one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Key path.
    pub path: String,
    /// How the weights that went were chosen.
    pub method: String,
    /// Fraction of the weights that are zero.
    pub sparsity: f64,
    /// Squared error of its outputs on calibration text relative to their squares; `None` without calibration.
    pub output_error: Option<f64>,
    /// Calibration tokens that it saw; 0 without calibration, and of an expert that no token was sent to.
    pub tokens: usize,
}

/// What a structured pattern did to one block.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BlockReport {
    /// Key path in the original model.
    pub path: String,
    /// Whether the whole block went.
    pub removed: bool,
    /// Groups of its attention heads that went, each with its key and value head.
    pub removed_groups: Vec<usize>,
    /// Squared error of the outputs of its attention on calibration text relative to their squares, if it was measured.
    pub attention_error: Option<f64>,
    /// Channels of its feed-forward layer that went.
    pub removed_channels: Vec<usize>,
    /// Squared error of the outputs of its feed-forward layer on calibration text relative to their squares, if it was measured.
    pub output_error: Option<f64>,
    /// How much it changes the direction of its inputs; `None` where it was not measured.
    pub influence: Option<f64>,
}

/// What pruning did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Each layer with pruned weights, in the order of the model.
    pub layers: Vec<LayerReport>,
    /// Each block of the original model, of structured patterns.
    pub blocks: Vec<BlockReport>,
    /// Channels of the residual stream that went.
    pub removed_hidden: Vec<usize>,
    /// Number of parameters of the original model.
    pub parameters_before: u64,
    /// Number of parameters, zeros included.
    pub parameters: u64,
    /// Number of parameters that are not zero.
    pub nonzero: u64,
    /// Fraction of the weights of the pruned layers that are zero; of structured patterns, of the blocks or channels that
    /// went or, if several kinds did, of all parameters.
    pub sparsity: f64,
    /// Seconds without loading.
    pub seconds: f64,
    /// Peak of MLX's allocator in bytes.
    pub peak_memory: u64,
    /// Folder of the result.
    pub output: PathBuf,
}
