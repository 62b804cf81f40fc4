//! The interface of causal language models.

use mlx_rs::Array;

use super::outline::Outline;
use crate::Result;
use crate::kernels::softcap::softcap;
use crate::nn::prompt::PromptShape;
use crate::nn::scaling::Scaling;
use crate::nn::units::Units;
use crate::nn::{self, Cache, Embedding, Head, Heads, Network, Prompt, Segments, Sequences};

/// Any causal language model.
pub type Model = dyn LanguageModel;

/// A causal language model.
pub trait LanguageModel: Network {
    /// `ids`: `[batch, time]` → hidden states before the output head, `[batch, time, hidden]`. With a cache,
    /// `ids` continue the cached sequence.
    ///
    /// # Errors
    /// Incompatible shapes.
    fn hidden(&self, ids: &Array, cache: Option<&mut Cache>) -> nn::Result<Array>;

    /// As [`hidden`](Self::hidden), continuing several sequences, each with a cache of its own: their tokens follow each
    /// other in `ids`, `[1, time]`.
    ///
    /// # Errors
    /// Incompatible shapes.
    fn hidden_each(&self, ids: &Array, sequences: Sequences<Cache>) -> nn::Result<Array>;

    /// As [`hidden`](Self::hidden), for rows of several packed sequences.
    ///
    /// # Errors
    /// Incompatible shapes.
    fn hidden_segmented(&self, ids: &Array, segments: &Segments) -> nn::Result<Array>;

    /// The output head.
    fn head(&self) -> Head<'_>;

    /// `ids`: `[batch, time]` → logits `[batch, time, vocab]`. With a cache, `ids` continue the cached
    /// sequence.
    ///
    /// # Errors
    /// Incompatible shapes.
    fn forward(&self, ids: &Array, cache: Option<&mut Cache>) -> nn::Result<Array> {
        self.logits(&self.hidden(ids, cache)?)
    }

    /// `hidden`: `[..., hidden]` → logits `[..., vocab]`.
    ///
    /// # Errors
    /// Incompatible shapes.
    fn logits(&self, hidden: &Array) -> nn::Result<Array> {
        let logits = self.head().forward(hidden)?;
        self.softcap().map_or(Ok(logits.clone()), |cap| softcap(&logits, cap))
    }

    /// `c` of the final softcap `c · tanh(logits / c)`.
    fn softcap(&self) -> Option<f32>;

    /// `ids`: `[...]` → input embeddings `[..., hidden]`.
    ///
    /// # Errors
    /// Errors from MLX.
    fn embed(&self, ids: &Array) -> nn::Result<Array>;

    /// Creates a cache for a sequence of which `planned` tokens are known in advance. It is empty except for
    /// the soft prompt, which it holds once for all rows of a batch.
    ///
    /// # Errors
    /// Errors from MLX.
    fn new_cache(&self, planned: i32) -> Result<Cache>;

    /// Identifies the rotations of a sequence of `length` tokens: graphs are reused for lengths of the same
    /// number only.
    fn rotation_variant(&self, length: i32) -> u64;

    /// Whether a sequence of `length` tokens is the first that needs a cache created for its length.
    fn invalidates_cache(&self, length: i32) -> bool;

    /// The soft prompt, which [`hidden`](Self::hidden) prepends to every sequence and does not return.
    fn prompt_mut(&mut self) -> &mut Option<Prompt>;

    /// Shape of a soft prompt of input embeddings.
    fn prompt_shape(&self) -> PromptShape;

    /// Shape of a soft prompt of keys and values; `None` if some layers are not attention.
    fn prefix_shape(&self) -> Option<PromptShape>;

    /// Number of blocks.
    fn block_count(&self) -> usize;

    /// Key path of block number `index`, which those of its layers start with.
    fn block_path(&self, index: usize) -> String;

    /// Applies block number `index` to the residual stream `x`, `[batch, time, hidden]`: sequences from their start.
    ///
    /// # Errors
    /// Incompatible shapes.
    fn apply_block(&self, index: usize, x: &Array) -> nn::Result<Array>;

    /// Returns the channels of block number `index` that only linear layers read.
    fn scalings(&self, index: usize) -> Vec<Scaling>;

    /// Hyperparameters of the attention of block number `index`, if it has any.
    fn heads(&self, index: usize) -> Option<&Heads>;

    /// The groups of heads of the attention of block number `index`, if it has any.
    fn groups(&self, index: usize) -> Option<Units>;

    /// The channels of the feed-forward layer of block number `index`; `None` of experts.
    fn channels(&self, index: usize) -> Option<Units>;

    /// Key path of the final norm, and what is added to its weight.
    fn final_norm(&self) -> (&'static str, f32);

    /// Residual stream after the last block → hidden states before the output head.
    ///
    /// # Errors
    /// Incompatible shapes.
    fn apply_final_norm(&self, x: &Array) -> nn::Result<Array>;

    /// The token embeddings.
    fn embedding_mut(&mut self) -> &mut Embedding;

    /// What it computes besides its parameters; `None` for what [`Outline`] cannot say.
    fn outline(&self) -> Option<Outline>;

    /// Size of the vocabulary.
    fn vocab_size(&self) -> i32;
}
