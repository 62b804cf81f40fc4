//! Perplexity and token accuracy of a model on rows of data.

use serde::{Deserialize, Serialize};

use super::score::score_samples;
use crate::data::{Labels, LocatedRow, Tokenizer, tokenize};
use crate::kernels::quantized::Accuracy;
use crate::models::Model;
use crate::progress::Observer;
use crate::{Error, Result};

/// Evaluation settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Number of rows per forward pass.
    pub batch_size: usize,
    /// Maximum length in tokens; longer rows are truncated.
    pub max_seq_length: usize,
    /// Whether to score answers only, not prompts.
    pub mask_prompt: bool,
    /// Accuracy of products with quantized weights on the CPU; `None` for that of the activations.
    #[serde(default)]
    pub accuracy: Option<Accuracy>,
}

/// Evaluation results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Mean cross-entropy per target token, in nats.
    pub loss: f64,
    /// `exp(loss)`
    pub perplexity: f64,
    /// Fraction of target tokens that greedy decoding would predict.
    pub token_accuracy: f64,
    /// Number of target tokens.
    pub tokens: usize,
    /// Number of rows that were scored.
    pub rows: usize,
    /// Number of rows truncated to `max_seq_length`.
    pub truncated_rows: usize,
    /// Number of rows without target tokens, possibly because of truncation.
    pub dropped_rows: usize,
}

/// Evaluates `model` on `rows`, tokenized as for training.
///
/// # Errors
/// Settings of 0; rows that cannot be tokenized, with file and line; errors from MLX; [`Error::Interrupted`].
pub fn run(
    model: &Model,
    tokenizer: &Tokenizer,
    rows: &[LocatedRow],
    settings: &Settings,
    observer: &mut dyn Observer,
) -> Result<Report> {
    for (name, value) in [("batch_size", settings.batch_size), ("max_seq_length", settings.max_seq_length)] {
        if value == 0 {
            return Err(Error::Config(format!("{name} is 0; it must be at least 1")));
        }
    }
    let data =
        tokenize(rows, tokenizer, Labels::from_mask_prompt(settings.mask_prompt), settings.max_seq_length)?;
    let score = || score_samples(model, &data.samples, settings.batch_size, observer);
    let scores = Accuracy::optional_scope(settings.accuracy, score)?;
    let tokens = scores.iter().map(Vec::len).sum::<usize>();
    let sum: f64 = scores.iter().flatten().map(|score| f64::from(score.logprob)).sum();
    let right = scores.iter().flatten().filter(|score| score.is_greedy).count();
    let loss = -sum / tokens as f64;
    Ok(Report {
        loss,
        perplexity: loss.exp(),
        token_accuracy: right as f64 / tokens as f64,
        tokens,
        rows: data.samples.len(),
        truncated_rows: data.report.truncated,
        dropped_rows: data.report.dropped,
    })
}
