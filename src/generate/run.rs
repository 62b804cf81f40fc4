//! Text from a model, token by token.

use std::ops::ControlFlow;
use std::time::Instant;

use mlx_rs::{Array, memory};
use serde::Serialize;

use super::config::GenerateConfig;
use super::incremental_decoder::IncrementalDecoder;
use super::sampler::Sampler;
use super::stop_strings::StopStrings;
use crate::data::{DecodeStream, Tokenizer};
use crate::kernels::quantized::Accuracy;
use crate::models::{self, Model};
use crate::nn::Cache;
use crate::{Error, Result, kernels};

/// Prompt tokens per forward pass: bounds the memory of a long prompt.
const PREFILL_CHUNK: usize = 512;

/// Why the text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended it, or a stop string came.
    Stop,
    /// `max_tokens` were generated.
    Length,
}

/// What was generated, and how fast.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The text after the prompt, without the stop string.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens sampled, the end token included.
    pub generated_tokens: usize,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Speed of reading the prompt.
    pub prompt_tokens_per_second: f64,
    /// Speed of generating.
    pub tokens_per_second: f64,
    /// How exactly packed weights were used; `None` for models that are not quantized, and on a GPU.
    pub accuracy: Option<Accuracy>,
    /// Peak of MLX's allocator, in bytes.
    pub peak_memory_bytes: usize,
}

/// Continues `prompt` (token ids), with packed weights used as exactly as `accuracy` says; `on_text` receives
/// the text as it comes and may stop it.
///
/// # Errors
/// An empty prompt; a setting out of range; [`Error::Interrupted`] when `on_text` breaks.
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
    let cache = prefill_all_but_last(model, prompt, &mut |nothing| check_flow(on_text(nothing)))?;
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
            if model.long_rope_threshold().is_some_and(|longest| history.len() == longest as usize + 1) {
                decoder = IncrementalDecoder::new(model, prefill_all_but_last(model, &history, &mut emit)?);
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

/// What the model remembers of all of `ids` but the last; `on_text` gets empty texts: nothing to show, but a chance to
/// stop.
fn prefill_all_but_last(
    model: &Model,
    ids: &[u32],
    on_text: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Cache> {
    let mut cache = model.new_cache(ids.len() as i32)?;
    for chunk in ids[..ids.len() - 1].chunks(PREFILL_CHUNK) {
        on_text("")?;
        prefill(model, chunk, &mut cache)?;
    }
    Ok(cache)
}

/// Feeds `ids` for the cache alone: the logits are never evaluated.
fn prefill(model: &Model, ids: &[u32], cache: &mut Cache) -> Result<()> {
    model.forward(&Array::from_slice(ids, &[1, ids.len() as i32]), Some(cache))?;
    Ok(kernels::eval(cache.arrays())?)
}
