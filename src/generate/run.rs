//! The generation loop.

use std::ops::ControlFlow;
use std::time::Instant;

use mlx_rs::{Array, memory};
use serde::Serialize;

use super::config::GenerateConfig;
use super::incremental_decoder::IncrementalDecoder;
use super::sampler::Sampler;
use super::stop_strings::StopStrings;
use crate::data::{DecodeStream, Tokenizer};
use crate::kernels::quantized::{Accuracy, Format};
use crate::models::{self, Model};
use crate::nn::Cache;
use crate::nn::prompt::PromptShape;
use crate::{Error, Result, kernels};

/// Number of prompt tokens per forward pass, which bounds the memory of long prompts.
const PREFILL_CHUNK: usize = 512;

/// Reason why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An end-of-sequence token or a stop string.
    Stop,
    /// `max_tokens` were generated.
    Length,
}

/// Result of a generation, with its speed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Generated text, without the stop string.
    pub text: String,
    /// Number of prompt tokens.
    pub prompt_tokens: usize,
    /// Number of sampled tokens, including the end token.
    pub generated_tokens: usize,
    /// Reason why generation ended.
    pub finish_reason: FinishReason,
    /// Prompt tokens per second.
    pub prompt_tokens_per_second: f64,
    /// Generated tokens per second.
    pub tokens_per_second: f64,
    /// Accuracy of the kernels; `None` for models that are not quantized, and on a GPU.
    pub accuracy: Option<Accuracy>,
    /// Peak memory of the MLX allocator, in bytes.
    pub peak_memory_bytes: usize,
}

/// Generates a continuation of `prompt` (token ids), with kernels of the given `accuracy`. `on_text` receives the
/// text as it is generated and may stop the generation.
///
/// # Errors
/// An empty prompt; a setting out of range; [`Error::Interrupted`] if `on_text` breaks.
pub fn run(
    model: &Model,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    config: &GenerateConfig,
    accuracy: Option<Accuracy>,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Report> {
    config.validate()?;
    let mut report = accuracy
        .unwrap_or(Accuracy::F32)
        .scope(|| generate_text(model, tokenizer, prompt, config, on_text))?;
    report.accuracy = accuracy;
    Ok(report)
}

fn generate_text(
    model: &Model,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    config: &GenerateConfig,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Report> {
    if prompt.is_empty() {
        return Err(Error::Config("the prompt has no tokens".into()));
    }
    memory::reset_peak_memory()?;
    let mut sampler = Sampler::new(config);
    let mut history = prompt.to_vec();
    let (mut stream, mut stops) = (DecodeStream::new(tokenizer), StopStrings::new(&config.stop));
    let started = Instant::now();
    models::check_tokens(prompt, model.vocab_size())?;
    let cache = prefill_all_but_last(model, prompt, config, &mut |nothing| check_flow(on_text(nothing)))?;
    let mut decoder = IncrementalDecoder::new(model, cache);
    let mut logits = decoder.step(prompt[prompt.len() - 1])?;
    let prefill_secs = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let mut text = String::new();
    let mut emit = |piece: &str| {
        text.push_str(piece);
        check_flow(on_text(piece))
    };
    let mut finish_reason = FinishReason::Length;
    for index in 0..config.max_tokens {
        let token = sampler.next(&mut logits, &history)?;
        history.push(token);
        if tokenizer.eos_ids().contains(&token) {
            finish_reason = FinishReason::Stop;
            break;
        }
        emit(&stops.push(&stream.push(token)?))?;
        if stops.hit() {
            finish_reason = FinishReason::Stop;
            break;
        }
        if index + 1 < config.max_tokens {
            let length = history.len() as i32;
            if model.invalidates_cache(length) {
                decoder =
                    IncrementalDecoder::new(model, prefill_all_but_last(model, &history, config, &mut emit)?);
            } else if model.rotation_variant(length) != model.rotation_variant(length - 1) {
                decoder.stop_recording();
            }
            logits = decoder.step(token)?;
        }
    }
    if !stops.hit() {
        let rest = stops.push(&stream.finish()?);
        emit(&rest)?;
        emit(&stops.finish())?;
    }
    let generated_tokens = history.len() - prompt.len();
    Ok(Report {
        text,
        prompt_tokens: prompt.len(),
        generated_tokens,
        finish_reason,
        prompt_tokens_per_second: prompt.len() as f64 / prefill_secs,
        tokens_per_second: generated_tokens as f64 / started.elapsed().as_secs_f64(),
        accuracy: None,
        peak_memory_bytes: memory::peak_memory()?,
    })
}

fn check_flow(flow: ControlFlow<()>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Interrupted),
    }
}

/// Computes the cache of all `ids` but the last. `on_text` is called with empty text so that it can stop the
/// generation.
fn prefill_all_but_last(
    model: &Model,
    ids: &[u32],
    config: &GenerateConfig,
    on_text: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Cache> {
    let mut cache = model.new_cache(ids.len() as i32)?;
    if let Some(format) = config.kv_format()? {
        check_cache_rows(model, format)?;
        cache.quantize(format);
    }
    for chunk in ids[..ids.len() - 1].chunks(PREFILL_CHUNK) {
        on_text("")?;
        prefill(model, chunk, &mut cache)?;
    }
    Ok(cache)
}

/// Checks that the keys and values of a position are whole groups.
fn check_cache_rows(model: &Model, format: Format) -> Result<()> {
    let Some(PromptShape::KeyValues { kv_heads, head_dim, .. }) = model.prefix_shape() else { return Ok(()) };
    let (row, group) = (kv_heads * head_dim, format.group_size() as i32);
    if row % group == 0 {
        return Ok(());
    }
    Err(Error::Config(format!(
        "kv_group_size is {group}, but the keys of a position are {row} numbers: choose a divisor of {row}, or leave \
         kv_bits out"
    )))
}

/// Appends `ids` to the cache; the logits are never evaluated.
fn prefill(model: &Model, ids: &[u32], cache: &mut Cache) -> Result<()> {
    model.forward(&Array::from_slice(ids, &[1, ids.len() as i32]), Some(cache))?;
    Ok(kernels::eval(cache.arrays())?)
}
