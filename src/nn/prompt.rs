//! Virtual tokens before a text, learned while the model stays as it is: vectors beside its embeddings
//! ([prompt tuning](https://arxiv.org/abs/2104.08691), [p-tuning](https://arxiv.org/abs/2103.10385)) or keys and values of
//! every layer ([prefix tuning](https://arxiv.org/abs/2101.00190)).

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::module::Param;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::{maximum, tanh};

use super::{Linear, Result};

/// Where virtual tokens stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptShape {
    /// Beside the embeddings.
    Embeddings {
        /// Numbers per embedding.
        hidden: i32,
    },
    /// Among the keys and values of every layer.
    KeyValues {
        /// Layers of the model.
        layers: i32,
        /// Heads of keys and values.
        kv_heads: i32,
        /// Numbers per head.
        head_dim: i32,
    },
}

impl PromptShape {
    /// Numbers that go in at one shape: an embedding, or all heads of one layer's keys.
    #[must_use]
    pub fn token_dim(self) -> i32 {
        match self {
            Self::Embeddings { hidden } => hidden,
            Self::KeyValues { kv_heads, head_dim, .. } => kv_heads * head_dim,
        }
    }

    /// Numbers per virtual token; `None` for more than an index counts.
    #[must_use]
    pub fn width(self) -> Option<i32> {
        match self {
            Self::Embeddings { hidden } => Some(hidden),
            Self::KeyValues { layers, .. } => self.token_dim().checked_mul(2)?.checked_mul(layers),
        }
    }
}

/// Virtual tokens, or what they are computed from in training.
#[derive(Debug, Clone, ModuleParameters)]
pub struct Prompt {
    /// `[virtual tokens, width]`, or what `encoder` takes.
    #[param]
    pub embedding: Param<Array>,
    /// Layers on the way to the virtual tokens; with `ReLU` between them for embeddings, with tanh for keys.
    #[param]
    pub encoder: Vec<Linear>,
    /// Where they stand.
    pub shape: PromptShape,
}

impl Prompt {
    /// Virtual tokens that nothing computes, `[virtual tokens, width]`.
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

    /// The virtual tokens, `[virtual tokens, width]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
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

    /// KeyValues, before which nothing turns them, and values of each layer: `[1, virtual tokens, kv_heads, head_dim]`; none of
    /// virtual tokens that stand elsewhere.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn key_values(&self) -> Result<Vec<[Array; 2]>> {
        let PromptShape::KeyValues { layers, kv_heads, head_dim } = self.shape else { return Ok(Vec::new()) };
        let x = self.forward()?.reshape(&[1, self.len(), 2 * layers, kv_heads, head_dim])?;
        let part = |i: i32| x.try_index((.., .., i));
        (0..layers).map(|i| Ok([part(2 * i)?, part(2 * i + 1)?])).collect()
    }
}
