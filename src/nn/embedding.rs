//! Token embeddings.

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::module::Param;

use super::Result;
use crate::kernels::embedding::embedding;
use crate::kernels::linear::{Layer, Weight};

/// A table of vectors, `weight`: `[vocab, hidden]`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Embedding {
    /// One row per token.
    #[param]
    pub weight: Param<Array>,
}

impl Embedding {
    /// A table of zeros to be filled from a checkpoint.
    ///
    /// # Errors
    /// What MLX raises.
    pub fn new(vocab: i32, hidden: i32) -> Result<Self> {
        Ok(Self { weight: Param::new(Array::zeros::<f32>(&[vocab, hidden])?) })
    }

    /// `ids`: `[...]` of integers below `vocab` → `[..., hidden]`.
    ///
    /// # Errors
    /// What MLX raises. An id out of range is an error of `eval` on the CPU, and not noticed on a GPU.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        embedding(&self.weight, ids)
    }

    /// The table as output head: `[..., hidden]` → logits `[..., vocab]`.
    #[must_use]
    pub fn as_linear(&self) -> Layer<'_> {
        Layer::plain(Weight::Dense(&self.weight))
    }
}
