//! What an adapter folder holds.

use super::soft_prompt::SoftPrompt;
use crate::adapters::adapter::Adapter;
use crate::params::Tensors;

/// Content of an adapter folder.
#[derive(Debug, Clone)]
pub enum StoredAdapter {
    /// Low-rank matrices.
    LowRank(Adapter),
    /// A soft prompt.
    Prompt(SoftPrompt),
    /// Parameters that replace those of the model (mlx-lm's `fine_tune_type` `full`).
    Full(Tensors),
}
