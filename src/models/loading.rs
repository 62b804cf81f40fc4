//! Creating models by `model_type`, and loading their weights.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_rs::Dtype;
use serde_json::Value;

use super::configuration::{Family, explicit};
use super::language_model::Model;
use super::stored_sizes;
use super::{
    gemma, gemma2, gemma3_text, gpt_oss, lfm2, lfm2_moe, llama, mistral, mixtral, phi3, qwen2, qwen3,
    qwen3_moe, smollm3,
};
use crate::io::gguf::TensorType;
use crate::io::quantization::QuantizationConfig;
use crate::io::{checkpoint, config, folder, gguf, weights, wrapper};
use crate::kernels::quantized::Format;
use crate::{Error, Result, files, kernels};

/// All `model_type`s supported by [`create`].
pub(super) const SUPPORTED: &str = "gemma2, gemma3_text, gpt_oss, lfm2, lfm2_moe, llama, mistral, mixtral, phi3, qwen2, qwen3, qwen3_moe, smollm3";

/// Names of routers, which are not quantized: they are small, and an error would send tokens to other
/// experts.
const ROUTERS: [&str; 2] = [".gate", ".router"];

/// Creates a model with the architecture of `config`, a parsed `config.json`, without loading weights.
///
/// # Errors
/// An unknown `model_type`; a key that is missing, of the wrong type or out of range.
pub fn create(config: &Value) -> Result<Box<Model>> {
    let mut model = match config::string(config, "model_type")? {
        "gemma2" => gemma2::create(config),
        "gemma3_text" => gemma3_text::create(config),
        "gpt_oss" => gpt_oss::create(config),
        "lfm2" => lfm2::create(config),
        "lfm2_moe" => lfm2_moe::create(config),
        "llama" => llama::create(config),
        "mistral" => mistral::create(config),
        "mixtral" => mixtral::create(config),
        "phi3" => phi3::create(config),
        "qwen2" => qwen2::create(config),
        "qwen3" => qwen3::create(config),
        "qwen3_moe" => qwen3_moe::create(config),
        "smollm3" => smollm3::create(config),
        other => Err(Error::ModelLoading(format!(
            "model_type \"{other}\" is not supported; supported are: {SUPPORTED}"
        ))),
    }?;
    model.visit_linears(&mut |path, layer| {
        path.clone_into(&mut layer.path);
        Ok(())
    })?;
    Ok(model)
}

/// Returns `config`, a `config.json`, with everything written out that models of its type take for granted: other programs
/// have other defaults.
///
/// # Errors
/// A dense model of another type; a key that is missing, of the wrong type or out of range.
pub fn explicit_config(config: &Value) -> Result<Value> {
    let model_type = config::string(config, "model_type")?;
    let family = match model_type {
        "gemma2" => &gemma::FAMILY,
        "gemma3_text" => &gemma3_text::FAMILY,
        "lfm2" => &lfm2::FAMILY,
        "llama" => &Family::LLAMA,
        "mistral" => &mistral::FAMILY,
        "phi3" => &phi3::FAMILY,
        "qwen2" => &qwen2::FAMILY,
        "qwen3" => &qwen3::FAMILY,
        "smollm3" => &smollm3::FAMILY,
        other => {
            return Err(Error::Config(format!(
                "the settings of a model of type \"{other}\" cannot be written out for another program"
            )));
        }
    };
    match model_type {
        "gemma2" => explicit(&gemma2::with_softcaps(config), family),
        "lfm2" => explicit(&lfm2::with_layer_types(config)?, family),
        _ => explicit(config, family),
    }
}

/// Loads a model folder in Hugging Face format or a GGUF file, with weights cast to `dtype`, or else to the dtype of most of them.
/// Quantized weights stay quantized, in MLX's layout; with `quantize`, all others are quantized too. Of a larger
/// model, such as a vision–language model, the language model is loaded.
///
/// # Errors
/// A broken `config.json`; weights that are missing, unexpected or of the wrong shape; no weight that can be
/// quantized.
pub fn load(folder: &Path, dtype: Option<Dtype>, quantize: Option<Format>) -> Result<Box<Model>> {
    files::guard(folder, Error::ModelLoading, || load_unguarded(folder, dtype, quantize))
}

fn load_unguarded(folder: &Path, dtype: Option<Dtype>, quantize: Option<Format>) -> Result<Box<Model>> {
    let whole = checkpoint::whole_config(folder)?;
    let inner = wrapper::language_model(&whole);
    let config = inner.as_ref().unwrap_or(&whole);
    let name_of: fn(&str) -> Option<String> = match inner {
        Some(_) => wrapper::language_model_name,
        None => |name| Some(name.to_owned()),
    };
    let named = |error: Error| {
        Error::ModelLoading(format!("{}: {error}", checkpoint::config_place(folder).display()))
    };
    let quantization = QuantizationConfig::parse(config).map_err(named)?;
    stored_sizes::check(config, folder, name_of)?;
    let mut model = create(config).map_err(named)?;
    if gguf::is_file(folder) {
        let unpacked = gguf::load(folder, config, model.as_mut(), dtype)?;
        if quantize.is_none() && !unpacked.is_empty() {
            log::warn!("{}", describe_unpacked(folder, &unpacked, model.dtype()));
        }
    } else {
        weights::load(folder, model.as_mut(), dtype, &quantization, name_of)?;
    }
    if let Some(format) = quantize {
        let mut any = false;
        model.visit_quantizable(&mut |path, weight| {
            if !is_router(path) {
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

/// Says which matrices of a GGUF file are not packed in memory.
fn describe_unpacked(path: &Path, unpacked: &BTreeMap<TensorType, usize>, dtype: Dtype) -> String {
    let counts: Vec<String> = unpacked.iter().map(|(kind, count)| format!("{count} in {kind}")).collect();
    format!(
        "{}: matrices in formats that MLX does not have become {} ({}); to keep them small, quantize while loading \
         (bits=4)",
        path.display(),
        format!("{dtype:?}").to_lowercase(),
        counts.join(", ")
    )
}

/// Whether the layer at `path` is a router, which is not quantized by default.
pub(crate) fn is_router(path: &str) -> bool {
    ROUTERS.iter().any(|name| path.ends_with(name))
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
