//! Language models, one file per architecture. [`load`] and [`create`] select it by `model_type`.

use std::path::Path;

use mlx_rs::{Array, Dtype};
use serde_json::Value;

use crate::io::quantization::QuantizationConfig;
use crate::io::{config, folder, weights};
use crate::kernels::linear::{Layer, linears};
use crate::kernels::quantized::Format;
use crate::kernels::softcap::softcap;
use crate::nn::prompt::PromptShape;
use crate::nn::{self, Cache, Embedding, Network, Prompt, Segments};
use crate::{Error, Result, kernels};

mod block;
mod causal_lm;
mod experts;
mod gemma;
mod gemma2;
mod gemma3_text;
mod gpt_oss;
mod gpt_oss_layout;
mod init;
mod lfm2;
mod lfm2_moe;
mod llama;
mod mixtral;
mod phi3;
mod qwen;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod shape;
mod smollm3;

pub use init::initialize;

/// All `model_type`s supported by [`create`].
const SUPPORTED: &str = "gemma2, gemma3_text, gpt_oss, lfm2, lfm2_moe, llama, mistral, mixtral, phi3, qwen2, qwen3, qwen3_moe, smollm3";

/// Names of routers, which are not quantized: they are small, and an error would send tokens to other
/// experts.
const ROUTERS: [&str; 2] = [".gate", ".router"];

/// Any language model, as [`load`] returns it.
pub type Model = dyn LanguageModel;

/// A causal language model.
pub trait LanguageModel: Network {
    /// `ids`: `[batch, time]` → hidden states before the output head, `[batch, time, hidden]`. With a cache,
    /// `ids` continue the cached sequence.
    ///
    /// # Errors
    /// Incompatible shapes.
    fn hidden(&self, ids: &Array, cache: Option<&mut Cache>) -> nn::Result<Array>;

    /// As [`hidden`](Self::hidden), for rows of several packed sequences.
    ///
    /// # Errors
    /// Incompatible shapes.
    fn hidden_segmented(&self, ids: &Array, segments: &Segments) -> nn::Result<Array>;

    /// The output head.
    fn head(&self) -> Layer<'_>;

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
        let logits = linears(hidden, &[self.head()])?.swap_remove(0);
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

    /// Longest sequence that the short-context rotations of `LongRoPE` apply to; `None` without `LongRoPE`. A
    /// longer sequence needs a cache created for its length.
    fn long_rope_threshold(&self) -> Option<i32>;

    /// The soft prompt, which [`hidden`](Self::hidden) prepends to every sequence and does not return.
    fn prompt_mut(&mut self) -> &mut Option<Prompt>;

    /// Shape of a soft prompt of input embeddings.
    fn prompt_shape(&self) -> PromptShape;

    /// Shape of a soft prompt of keys and values; `None` if some layers are not attention.
    fn prefix_shape(&self) -> Option<PromptShape>;

    /// The token embeddings.
    fn embedding_mut(&mut self) -> &mut Embedding;

    /// Number of blocks.
    fn num_layers(&self) -> usize;

    /// Size of the vocabulary.
    fn vocab_size(&self) -> i32;
}

/// Creates a model with the architecture of `config`, a parsed `config.json`, without loading weights.
///
/// # Errors
/// An unknown `model_type`; a key that is missing, of the wrong type or out of range.
pub fn create(config: &Value) -> Result<Box<Model>> {
    match config::string(config, "model_type")? {
        "gemma2" => gemma2::create(config),
        "gemma3_text" => gemma3_text::create(config),
        "gpt_oss" => gpt_oss::create(config),
        "lfm2" => lfm2::create(config),
        "lfm2_moe" => lfm2_moe::create(config),
        "llama" | "mistral" => llama::create(config),
        "mixtral" => mixtral::create(config),
        "phi3" => phi3::create(config),
        "qwen2" => qwen2::create(config),
        "qwen3" => qwen3::create(config),
        "qwen3_moe" => qwen3_moe::create(config),
        "smollm3" => smollm3::create(config),
        other => Err(Error::ModelLoading(format!(
            "model_type \"{other}\" is not supported; supported are: {SUPPORTED}"
        ))),
    }
}

/// Loads a model folder in Hugging Face format, with weights cast to `dtype` if given. Quantized weights stay
/// quantized, in MLX's layout; with `quantize`, all others are quantized too.
///
/// # Errors
/// A broken `config.json`; weights that are missing, unexpected or of the wrong shape; no weight that can be
/// quantized.
pub fn load(folder: &Path, dtype: Option<Dtype>, quantize: Option<Format>) -> Result<Box<Model>> {
    let config = config::read(folder)?;
    let named =
        |error: Error| Error::ModelLoading(format!("{}: {error}", folder.join("config.json").display()));
    let mut model = create(&config).map_err(named)?;
    let quantization = QuantizationConfig::parse(&config).map_err(named)?;
    weights::load(folder, model.as_mut(), dtype, &quantization)?;
    if let Some(format) = quantize {
        let mut any = false;
        model.visit_quantizable(&mut |path, weight| {
            if !ROUTERS.iter().any(|name| path.ends_with(name)) {
                any |= weight.quantize(format)?;
            }
            Ok(())
        })?;
        if !any {
            return Err(Error::ModelLoading(format!(
                "{}: no matrix can be quantized, because their rows do not consist of groups of {}",
                folder.display(),
                format.group_size()
            )));
        }
    }
    let parameters = model.parameters().flatten();
    kernels::eval(parameters.values().copied())?;
    kernels::use_large_pages(parameters.values().copied());
    drop(parameters);
    Ok(model)
}

/// Saves a copy of the model folder `source` with weights in `dtype`.
///
/// # Errors
/// A folder that is not a model, or cannot be written.
pub fn convert(source: &Path, target: &Path, dtype: Dtype) -> Result<()> {
    folder::save(source, target, load(source, Some(dtype), None)?.as_ref())
}

/// Checks that all `ids` are below `vocab`, since MLX does not check array bounds.
///
/// # Errors
/// The first token out of range.
pub fn check_tokens<'a>(ids: impl IntoIterator<Item = &'a u32>, vocab: i32) -> Result<()> {
    let vocab = vocab.unsigned_abs();
    match ids.into_iter().find(|&&id| id >= vocab) {
        None => Ok(()),
        Some(id) => Err(Error::ModelLoading(format!(
            "the tokenizer gives token {id}, but the model has only {vocab} tokens: they do not belong together"
        ))),
    }
}

#[cfg(test)]
mod tests;
