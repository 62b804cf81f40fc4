//! The file formats of adapters.

use serde::{Deserialize, Serialize};

/// Configuration file of an adapter, in both formats.
pub const CONFIG: &str = "adapter_config.json";

/// File format of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `adapters.safetensors`, the format of [mlx-lm](https://github.com/ml-explore/mlx-lm).
    Mlx,
    /// `adapter_model.safetensors`, the format of [PEFT](https://github.com/huggingface/peft).
    Peft,
}
