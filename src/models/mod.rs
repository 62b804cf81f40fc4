//! One file per architecture; [`load`] and [`create`] choose by `model_type`.

use std::path::Path;

use mlx_rs::module::ModuleParameters;
use mlx_rs::{Array, Dtype};
use serde_json::Value;

use crate::kernels::linear::{Layer, linears};
use crate::kernels::quantized::Format;
use crate::nn::packed::Slots;
use crate::nn::{self, Cache, Linear};
use crate::{Error, Result, kernels};

pub mod llama;

mod config;
mod init;
mod quantization;

pub use config::read as read_config;
pub use init::initialize;
pub use quantization::Quantization;

/// What every language model does.
pub trait Model: ModuleParameters + Send {
    /// `ids`: `[batch, time]` → what the head takes, `[batch, time, hidden]`. With a cache, `ids` continue
    /// what it holds.
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn hidden(&self, ids: &Array, cache: Option<&mut Cache>) -> nn::Result<Array>;

    /// The layer that turns hidden states into logits.
    fn head(&self) -> Layer<'_>;

    /// `ids`: `[batch, time]` → logits `[batch, time, vocab]`. Cache as for [`hidden`](Self::hidden).
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn forward(&self, ids: &Array, cache: Option<&mut Cache>) -> nn::Result<Array> {
        Ok(linears(&self.hidden(ids, cache)?, &[self.head()])?.swap_remove(0))
    }

    /// Calls `visit` on every linear layer of the blocks with its key path, in order.
    ///
    /// This is the one seam through which every method reaches layers.
    ///
    /// # Errors
    /// The first error of `visit`.
    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear) -> Result<()>) -> Result<()>;

    /// Calls `visit` on every layer that may be quantized with its key path: the linear layers, the embedding
    /// and the head.
    ///
    /// # Errors
    /// The first error of `visit`.
    fn visit_packable(&mut self, visit: &mut dyn FnMut(&str, Slots) -> Result<()>) -> Result<()>;

    /// Number of blocks, which is also the number of caches.
    fn num_layers(&self) -> usize;

    /// Number of tokens the head tells apart.
    fn vocab_size(&self) -> i32;

    /// Number format of activations.
    fn dtype(&self) -> Dtype;

    /// Whether a tensor of a checkpoint is known to carry nothing this model needs.
    fn ignores(&self, key: &str) -> bool;
}

/// An empty model of the architecture that `config` (a `config.json`) describes.
///
/// # Errors
/// An unknown `model_type`; a key that is missing or out of range.
pub fn create(config: &Value) -> Result<Box<dyn Model>> {
    match config::string(config, "model_type")? {
        "llama" | "mistral" => Ok(Box::new(llama::Llama::new(&llama::Config::parse(config)?)?)),
        other => Err(Error::ModelLoading(format!(
            "model_type \"{other}\" is not supported; supported are: llama, mistral"
        ))),
    }
}

/// The model of a Hugging Face-format folder, its weights cast to `dtype` or kept as stored. Matrices that are
/// quantized on disk, as MLX does it, stay so; with `quantize` the others are quantized too.
///
/// # Errors
/// A broken `config.json`; weights that are missing, unexpected or of the wrong shape.
pub fn load(folder: &Path, dtype: Option<Dtype>, quantize: Option<Format>) -> Result<Box<dyn Model>> {
    let config = read_config(folder)?;
    let named =
        |error: Error| Error::ModelLoading(format!("{}: {error}", folder.join("config.json").display()));
    let mut model = create(&config).map_err(named)?;
    let quantization = Quantization::parse(&config).map_err(named)?;
    crate::io::weights::load(folder, model.as_mut(), dtype, &quantization)?;
    if let Some(format) = quantize {
        model.visit_packable(&mut |_, slots| Ok(slots.quantize(format)?))?;
    }
    let parameters = model.parameters().flatten();
    kernels::eval(parameters.values().copied())?;
    kernels::use_large_pages(parameters.values().copied());
    drop(parameters);
    Ok(model)
}

/// Refuses tokens that a model with `vocab` tokens does not have: MLX would read past the table.
///
/// # Errors
/// The first such token.
pub fn check_tokens<'a>(ids: impl IntoIterator<Item = &'a u32>, vocab: i32) -> Result<()> {
    let vocab = vocab.unsigned_abs();
    match ids.into_iter().find(|&&id| id >= vocab) {
        None => Ok(()),
        Some(id) => Err(Error::ModelLoading(format!(
            "the tokenizer gives token {id}, but the model has only {vocab} tokens: they do not belong together"
        ))),
    }
}
