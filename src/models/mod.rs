//! One file per architecture; [`load`] and [`create`] choose by `model_type`.

use std::collections::BTreeSet;
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

/// Every `model_type` that [`create`] knows.
const SUPPORTED: &str = "gemma2, gemma3_text, gpt_oss, lfm2, lfm2_moe, llama, mistral, mixtral, phi3, qwen2, qwen3, qwen3_moe, smollm3";

/// What routers of experts are called. They are small, and where they are a little wrong, others do the work.
const ROUTERS: [&str; 2] = [".gate", ".router"];

/// Which activations are not kept for the gradient.
#[derive(Debug, Clone)]
pub struct GradientCheckpointing {
    /// Blocks between two states that are kept.
    pub every: usize,
    /// Names of all parameters of which a gradient is asked.
    pub trained: BTreeSet<String>,
}

/// What every language model does.
pub trait LanguageModel: Network {
    /// `ids`: `[batch, time]` → what the head takes, `[batch, time, hidden]`. With a cache, `ids` continue
    /// what it holds.
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn hidden(&self, ids: &Array, cache: Option<&mut Cache>) -> nn::Result<Array>;

    /// As [`hidden`](Self::hidden), of rows that are several texts each.
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn hidden_segmented(&self, ids: &Array, segments: &Segments) -> nn::Result<Array>;

    /// The layer that turns hidden states into logits.
    fn head(&self) -> Layer<'_>;

    /// `ids`: `[batch, time]` → logits `[batch, time, vocab]`. Cache as for [`hidden`](Self::hidden).
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn forward(&self, ids: &Array, cache: Option<&mut Cache>) -> nn::Result<Array> {
        self.logits(&self.hidden(ids, cache)?)
    }

    /// `hidden`: `[..., hidden]` → logits `[..., vocab]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn logits(&self, hidden: &Array) -> nn::Result<Array> {
        let logits = linears(hidden, &[self.head()])?.swap_remove(0);
        self.softcap().map_or(Ok(logits.clone()), |cap| softcap(&logits, cap))
    }

    /// `c` of `c · tanh(logits / c)`, the last step to the logits of some models.
    fn softcap(&self) -> Option<f32>;

    /// `ids`: `[...]` → what goes into the first block, `[..., hidden]`.
    ///
    /// # Errors
    /// What MLX raises.
    fn embed(&self, ids: &Array) -> nn::Result<Array>;

    /// What [`hidden`](Self::hidden) takes to remember what it has read: nothing yet but the virtual tokens, of a text of
    /// which `planned` tokens are known. Rows of a batch share virtual tokens, of which it holds one row.
    ///
    /// # Errors
    /// What MLX raises.
    fn new_cache(&self, planned: i32) -> Result<Cache>;

    /// Whether the host looks at numbers within a pass, whose graph can then not be kept for others.
    fn is_data_dependent(&self) -> bool;

    /// Up to how many tokens a text is read as a short one: a longer one needs a cache that was planned for it.
    fn long_rope_threshold(&self) -> Option<i32>;

    /// From now on, without a cache, `hidden` keeps for the gradient what every so many blocks pass on to the next, and
    /// computes what lies between again; `trained` are the names of all parameters of which a gradient is asked.
    /// `None` to keep everything.
    fn set_gradient_checkpointing(&mut self, checkpointing: Option<GradientCheckpointing>);

    /// Virtual tokens that [`hidden`](Self::hidden) reads before every text, of which it returns nothing.
    fn prompt_mut(&mut self) -> &mut Option<Prompt>;

    /// The place of virtual tokens beside the embeddings.
    fn prompt_shape(&self) -> PromptShape;

    /// The place of virtual tokens among keys and values; `None` where not every layer is attention.
    fn prefix_shape(&self) -> Option<PromptShape>;

    /// The table of token embeddings.
    fn embedding_mut(&mut self) -> &mut Embedding;

    /// Number of blocks.
    fn num_layers(&self) -> usize;

    /// Number of tokens the head tells apart.
    fn vocab_size(&self) -> i32;
}

/// An empty model of the architecture that `config` (a `config.json`) describes.
///
/// # Errors
/// An unknown `model_type`; a key that is missing or out of range.
pub fn create(config: &Value) -> Result<Box<dyn LanguageModel>> {
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

/// The model of a Hugging Face-format folder, its weights cast to `dtype` or kept as stored. Matrices that are
/// quantized on disk stay so, in MLX's layout; with `quantize` the others are quantized too.
///
/// # Errors
/// A broken `config.json`; weights that are missing, unexpected or of the wrong shape; nothing that could be quantized.
pub fn load(folder: &Path, dtype: Option<Dtype>, quantize: Option<Format>) -> Result<Box<dyn LanguageModel>> {
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

/// Writes a copy of the model folder `source` with its weights in `dtype`.
///
/// # Errors
/// A folder that is not a model, or cannot be written.
pub fn convert(source: &Path, target: &Path, dtype: Dtype) -> Result<()> {
    folder::save(source, target, load(source, Some(dtype), None)?.as_ref())
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

#[cfg(test)]
mod tests;
