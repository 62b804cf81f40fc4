//! What an adapter changes in a network besides the low-rank slots of its layers.

use std::collections::BTreeMap;

use mlx_rs::Array;

use crate::kernels::quantized::Format;

/// Changes that are undone when the adapter is detached.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Former values of replaced parameters, by name.
    pub originals: BTreeMap<String, Original>,
    /// Whether the output head is one of the adaptable layers.
    pub adapts_head: bool,
    /// Whether the output head is a copy of the embeddings that it is tied to otherwise.
    pub untied: bool,
}

/// A replaced parameter; only a weight may be quantized.
#[derive(Debug, Clone)]
pub struct Original {
    /// The parameter, or the codes of a quantized weight.
    pub value: Array,
    /// Scales of a quantized weight.
    pub scales: Option<Array>,
    /// Biases of a quantized weight.
    pub biases: Option<Array>,
    /// Quantization format; `None` for a dense parameter.
    pub format: Option<Format>,
}
