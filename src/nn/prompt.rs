//! Soft prompts: virtual tokens before every sequence, learned while the model is frozen. They are input
//! embeddings ([prompt tuning](https://arxiv.org/abs/2104.08691),
//! [p-tuning](https://arxiv.org/abs/2103.10385)) or keys and values of every layer ([prefix
//! tuning](https://arxiv.org/abs/2101.00190)).

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::module::Param;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::{maximum, tanh};

use super::{Linear, Result};

/// What a virtual token consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptShape {
    /// An input embedding.
    Embeddings {
        /// Embedding dimension.
        hidden: i32,
    },
    /// Keys and values of every layer.
    KeyValues {
        /// Number of layers.
        layers: i32,
        /// Number of key and value heads.
        kv_heads: i32,
        /// Dimension of each head.
        head_dim: i32,
    },
}

impl PromptShape {
    /// Dimension of an embedding, or of the keys of one layer.
    #[must_use]
    pub fn token_dim(self) -> i32 {
        match self {
            Self::Embeddings { hidden } => hidden,
            Self::KeyValues { kv_heads, head_dim, .. } => kv_heads * head_dim,
        }
    }

    /// Number of elements per virtual token; `None` on overflow.
    #[must_use]
    pub fn width(self) -> Option<i32> {
        match self {
            Self::Embeddings { hidden } => Some(hidden),
            Self::KeyValues { layers, .. } => self.token_dim().checked_mul(2)?.checked_mul(layers),
        }
    }
}

/// A soft prompt, or the inputs and layers of its encoder in training.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Prompt {
    /// `[virtual tokens, width]`, or the inputs of `encoder`.
    #[param]
    pub embedding: Param<Array>,
    /// Layers of the prompt encoder, with `ReLU` between them for embeddings and tanh for keys and values.
    #[param]
    pub encoder: Vec<Linear>,
    /// What a virtual token consists of.
    pub shape: PromptShape,
}

impl Prompt {
    /// Creates a soft prompt without an encoder from `embedding`, `[virtual tokens, width]`.
    #[must_use]
    pub fn new(embedding: Array, shape: PromptShape) -> Self {
        Self { embedding: Param::new(embedding), encoder: Vec::new(), shape }
    }

    /// Number of virtual tokens.
    #[must_use]
    pub fn len(&self) -> i32 {
        self.embedding.dim(0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the virtual tokens, `[virtual tokens, width]`.
    ///
    /// # Errors
    /// Incompatible shapes.
    pub fn forward(&self) -> Result<Array> {
        let mut x = (*self.embedding).clone();
        for (i, layer) in self.encoder.iter().enumerate() {
            x = match self.shape {
                _ if i == 0 => x,
                PromptShape::Embeddings { .. } => maximum(&x, Array::from_f32(0.0))?,
                PromptShape::KeyValues { .. } => tanh(&x)?,
            };
            x = layer.forward(&x)?;
        }
        Ok(x)
    }

    /// Returns keys, without rotary embedding, and values of each layer: `[1, virtual tokens, kv_heads,
    /// head_dim]`. Empty for a prompt of embeddings.
    ///
    /// # Errors
    /// Incompatible shapes.
    pub fn key_values(&self) -> Result<Vec<[Array; 2]>> {
        let PromptShape::KeyValues { layers, kv_heads, head_dim } = self.shape else { return Ok(Vec::new()) };
        let x = self.forward()?.reshape(&[1, self.len(), 2 * layers, kv_heads, head_dim])?;
        let part = |i: i32| x.try_index((.., .., i));
        (0..layers).map(|i| Ok([part(2 * i)?, part(2 * i + 1)?])).collect()
    }
}
