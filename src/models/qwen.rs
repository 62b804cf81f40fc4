//! Common parts of the Qwen architectures.

use serde::Deserialize;
use serde_json::Value;

use super::shape;
use crate::Result;
use crate::io::config;
use crate::kernels::attention::Mask;

#[derive(Debug, Clone, Deserialize)]
struct File {
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default = "default_layers")]
    max_window_layers: u64,
}

fn default_layers() -> u64 {
    28
}

/// Attention mask of each layer: a sliding window from `max_window_layers` on, if enabled.
///
/// # Errors
/// A window out of range.
pub(super) fn masks(json: &Value, layers: usize) -> Result<Vec<Mask>> {
    let file: File = config::parse(json)?;
    let window = if file.use_sliding_window { shape::window(json)? } else { None };
    shape::masks(json, layers, window, |i| window.is_some() && i as u64 >= file.max_window_layers)
}
