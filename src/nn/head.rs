//! The output head of a language model.

use mlx_rs::Array;

use super::row_adapters::{RowAdapters, Target};
use super::{Embedding, Linear, Result};
use crate::kernels::chunked_logits::{LayerParts, map_logits};
use crate::kernels::cross_entropy::{Options, cross_entropy_rows};
use crate::kernels::linear::{Layer, linears};

/// Key path of the output head, also of one that is tied to the embeddings.
pub const PATH: &str = "lm_head";

/// An output head: `[..., hidden]` → logits `[..., vocab]`, before any softcap.
#[derive(Debug, Clone, Copy)]
pub enum Head<'a> {
    /// A layer of its own.
    Layer(&'a Linear),
    /// The token embeddings.
    Tied(&'a Embedding),
}

impl Head<'_> {
    /// `hidden`: `[..., hidden]` → `[..., vocab]`, in the dtype of `hidden`.
    ///
    /// # Errors
    /// A last dimension other than `hidden`.
    pub fn forward(&self, hidden: &Array) -> Result<Array> {
        match self {
            Self::Layer(layer) => layer.forward(hidden),
            Self::Tied(table) => {
                let mut outputs = linears(hidden, &[table.as_linear()])?;
                if let Some(rows) = RowAdapters::current() {
                    let target = Target { path: PATH, bias: None, attached: None };
                    outputs = rows.update(hidden, outputs, &[target])?;
                }
                Ok(outputs.swap_remove(0))
            }
        }
    }

    /// Computes weighted sums of the cross-entropy; see [`cross_entropy_rows`].
    ///
    /// # Errors
    /// Incompatible shapes.
    pub fn cross_entropy_rows(
        &self,
        hidden: &Array,
        targets: &Array,
        weights: &Array,
        options: Options,
    ) -> Result<Array> {
        match self {
            Self::Layer(layer) => layer.cross_entropy_rows(hidden, targets, weights, options),
            Self::Tied(table) => cross_entropy_rows(hidden, &table.as_linear(), targets, weights, options),
        }
    }
    /// Applies a function to the logits of some positions at a time; see [`map_logits`].
    ///
    /// # Errors
    /// Incompatible shapes; errors of `function`.
    pub fn map_logits<F>(
        &self,
        hidden: &Array,
        others: &[Array],
        limits: (usize, bool),
        function: F,
    ) -> Result<Array>
    where
        F: Fn(&Array, &[Array]) -> Result<Array> + Clone + Send + 'static,
    {
        match self {
            Self::Layer(layer) => layer.map_logits(hidden, others, limits, function),
            Self::Tied(table) => map_logits(hidden, &table.as_linear(), others, limits, function),
        }
    }

    /// Splits a head without an adapter into what [`LayerParts`] says.
    #[must_use]
    pub fn parts(&self) -> (LayerParts, Vec<Array>) {
        match self {
            Self::Layer(layer) => LayerParts::of(&Layer {
                weight: layer.matrix(),
                bias: (*layer.bias).as_ref(),
                low_rank: None,
            }),
            Self::Tied(table) => LayerParts::of(&table.as_linear()),
        }
    }
}
