//! Token embeddings.

use mlx_macros::ModuleParameters;
use mlx_rs::module::Param;
use mlx_rs::{Array, Dtype};

use super::Result;
use super::packed::{self, Slots};
use crate::kernels::embedding::embedding;
use crate::kernels::linear::{Layer, Weight};
use crate::kernels::quantized::{self, Format};

/// A table of vectors, `weight`: `[vocab, hidden]`.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Embedding {
    /// One row per token, or the codes of a quantized table.
    #[param]
    pub weight: Param<Array>,
    /// Factors of the groups of a quantized table.
    #[param]
    pub scales: Param<Option<Array>>,
    /// Summands of the groups of a quantized table.
    #[param]
    pub biases: Param<Option<Array>>,
    /// How the table is quantized.
    pub format: Option<Format>,
}

impl Embedding {
    /// A table of zeros to be filled from a checkpoint.
    ///
    /// # Errors
    /// What MLX raises.
    pub fn new(vocab: i32, hidden: i32) -> Result<Self> {
        Ok(Self {
            weight: Param::new(Array::zeros::<f32>(&[vocab, hidden])?),
            scales: Param::new(None),
            biases: Param::new(None),
            format: None,
        })
    }

    /// `ids`: `[...]` of integers below `vocab` → `[..., hidden]` in the dtype of the table, or in `dtype` when
    /// it is quantized.
    ///
    /// # Errors
    /// What MLX raises. An id out of range is an error of `eval` on the CPU, and not noticed on a GPU.
    pub fn forward(&self, ids: &Array, dtype: Dtype) -> Result<Array> {
        match self.table() {
            Weight::Dense(table) => embedding(table, ids),
            Weight::Packed(table) => quantized::embedding(table, ids, dtype),
        }
    }

    /// The table, `[vocab, hidden]`.
    #[must_use]
    pub fn table(&self) -> Weight<'_> {
        packed::weight(&self.weight, (*self.scales).as_ref(), (*self.biases).as_ref(), self.format)
    }

    /// The slots of the table.
    pub fn slots(&mut self) -> Slots<'_> {
        Slots {
            weight: &mut self.weight,
            scales: &mut self.scales,
            biases: &mut self.biases,
            format: &mut self.format,
        }
    }

    /// The table as output head: `[..., hidden]` → logits `[..., vocab]`.
    #[must_use]
    pub fn as_linear(&self) -> Layer<'_> {
        Layer::plain(self.table())
    }
}
