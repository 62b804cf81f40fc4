//! What a quantization did.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What was done to one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Key path.
    pub path: String,
    /// Format: bits and group size, or the name of a floating-point format.
    pub format: String,
    /// How its codes were chosen.
    pub technique: String,
    /// Squared error of its weights relative to their squares.
    pub weight_error: f64,
    /// Calibration tokens that it saw; 0 without calibration, and of an expert that no token was sent to.
    pub tokens: usize,
    /// Damping that GPTQ needed.
    pub damping: Option<f64>,
}

/// The sensitivity of a layer, or of the experts of one stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// Key path; of experts that are stacked, the name of the stack.
    pub layer: String,
    /// Format in which it was quantized alone.
    pub format: String,
    /// Mean Kullback–Leibler divergence of the predictions from the original ones, in nats.
    pub kl: f64,
    /// What each format is expected to cost, relative to `format`: the squared error of the layer's output, or where that
    /// is large, the measured divergence.
    pub errors: BTreeMap<String, f64>,
}

/// What a quantization did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Each quantized layer, in the order of the model.
    pub layers: Vec<LayerReport>,
    /// Number of parameters.
    pub parameters: u64,
    /// Stored bits per parameter, scales and dense parameters included.
    pub bits_per_weight: f64,
    /// Size of the weights in bytes.
    pub size: u64,
    /// Layers that should have been calibrated but saw no token: their codes are rounded to nearest.
    pub uncalibrated: Vec<String>,
    /// Squared error, relative to the squares, of weights that were dequantized and are quantized again: their mean;
    /// `None` if there are none.
    pub requantization_error: Option<f64>,
    /// Sensitivity of each layer whose format was chosen by it; empty with other techniques.
    pub sensitivity: Vec<Sensitivity>,
    /// Seconds without loading.
    pub seconds: f64,
    /// Mean divergence from the original model on sequences that were not learned from, before and after learning.
    pub divergence: Option<[f64; 2]>,
    /// Peak of MLX's allocator in bytes.
    pub peak_memory: u64,
    /// Folder of the result.
    pub output: PathBuf,
}
