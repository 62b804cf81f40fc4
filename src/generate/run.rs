//! Generating one text.

use std::ops::ControlFlow;
use std::time::Instant;

use mlx_rs::memory;
use serde::Serialize;

use super::config::GenerateConfig;
use super::finish::FinishReason;
use super::log_probabilities::TokenLogProbability;
use super::scheduler::{Scheduler, SchedulerConfig};
use crate::data::Tokenizer;
use crate::kernels::quantized::Accuracy;
use crate::models::Model;
use crate::{Error, Result};

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
    /// Log-probabilities of the generated tokens, if they are asked for.
    pub logprobs: Vec<TokenLogProbability>,
    /// Log-probabilities of the prompt's tokens but the first, if they are asked for.
    pub prompt_logprobs: Vec<TokenLogProbability>,
}

/// Generates a continuation of `prompt` (token ids), with kernels of the given `accuracy`. `on_text` receives the
/// text as it is generated and may stop the generation; while the prompt is read, it is called with empty text.
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
    memory::reset_peak_memory()?;
    let mut scheduler = Scheduler::new(SchedulerConfig { max_batch: 1, ..Default::default() }, accuracy)?;
    scheduler.add(model, tokenizer, prompt.to_vec(), config.clone())?;
    let mut started = Instant::now();
    let mut prefill_seconds = None;
    let mut report = Report {
        text: String::new(),
        prompt_tokens: prompt.len(),
        generated_tokens: 0,
        finish_reason: FinishReason::Length,
        prompt_tokens_per_second: 0.0,
        tokens_per_second: 0.0,
        accuracy,
        peak_memory_bytes: 0,
        logprobs: Vec::new(),
        prompt_logprobs: Vec::new(),
    };
    loop {
        let event = scheduler.step(model, None, tokenizer).pop();
        if event.is_some() && prefill_seconds.is_none() {
            prefill_seconds = Some(started.elapsed().as_secs_f64());
            started = Instant::now();
        }
        let text = event.as_ref().map_or("", |event| event.text.as_str());
        if let ControlFlow::Break(()) = on_text(text) {
            return Err(Error::Interrupted);
        }
        let Some(event) = event else { continue };
        if let Some(error) = event.error {
            return Err(error);
        }
        report.text += &event.text;
        report.logprobs.extend(event.logprobs);
        report.prompt_logprobs.extend(event.prompt_logprobs);
        report.generated_tokens = event.generated_tokens;
        if let Some(reason) = event.finish_reason {
            report.finish_reason = reason;
            break;
        }
    }
    report.prompt_tokens_per_second = prompt.len() as f64 / prefill_seconds.unwrap_or(f64::INFINITY);
    report.tokens_per_second = report.generated_tokens as f64 / started.elapsed().as_secs_f64();
    report.peak_memory_bytes = memory::peak_memory()?;
    Ok(report)
}
