//! What speaks for which rank: the data, and the gradient of each layer on them.

use serde::{Deserialize, Serialize};

use super::config::{Method, TrainingConfig};
use super::dataset::{self, Dataset};
use super::spectrum::{Spectrum, gradient_spectra};
use crate::data::{Batch, DataReport, Examples, Tokenizer, epoch_batches};
use crate::models::Model;
use crate::progress::Observer;
use crate::train::text::data::{TrainingRows, megabatches};
use crate::train::text::objective::ObjectiveKind;
use crate::{Error, Result};

/// How the gradient is looked at.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnalysisSettings {
    /// Batches of the training data whose mean gradient is taken.
    pub batches: usize,
    /// Singular values found for each layer, as far as it has so many.
    pub width: u32,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Analysis {
    /// Each split.
    pub data: DataReport,
    /// Each layer that `config` adapts, in the order of the model.
    pub layers: Vec<Spectrum>,
}

/// Looks at data and gradients of the run that `config` describes. `model` has no adapters afterwards.
///
/// # Errors
/// A configuration or data that cannot be used, by name; [`Error::Interrupted`].
pub fn analyze(
    model: &mut Model,
    tokenizer: &Tokenizer,
    config: &TrainingConfig,
    probe: &AnalysisSettings,
    observer: &mut dyn Observer,
) -> Result<Analysis> {
    config.validate()?;
    if !matches!(config.method, Method::Lora | Method::Dora) {
        return Err(Error::Config(format!(
            "method is \"{}\", but ranks by layer are for \"lora\" and \"dora\"",
            config.method.name()
        )));
    }
    if config.objective != ObjectiveKind::Sft {
        return Err(Error::Config("ranks by layer are found for the objective \"sft\" only".into()));
    }
    if probe.batches == 0 || probe.width == 0 {
        return Err(Error::Config(format!(
            "batches is {} and width {}, expected both above 0",
            probe.batches, probe.width
        )));
    }
    let report = dataset::statistics(tokenizer, config, observer)?;
    let vocab = model.vocab_size();
    let Dataset { data, .. } = Dataset::read(tokenizer, config, vocab, observer)?;
    let batches = batches(&data.train, config, probe.batches, tokenizer.pad_id(), vocab)?;
    Ok(Analysis { data: report, layers: gradient_spectra(model, &batches, config, probe.width, observer)? })
}

/// The first `count` batches that a run would see.
fn batches(
    rows: &TrainingRows,
    config: &TrainingConfig,
    count: usize,
    pad: u32,
    vocab: i32,
) -> Result<Vec<Batch>> {
    let batch = |rows: &Examples, numbers: &Vec<usize>| rows.batch(numbers, config.max_seq_length, pad);
    match rows {
        TrainingRows::InMemory(rows) => {
            let order = epoch_batches(&rows.lengths(), config.batch_size, config.seed, 0);
            Ok(order.iter().take(count).map(|numbers| batch(rows, numbers)).collect())
        }
        TrainingRows::Streamed(rows) => {
            let mut batches = Vec::new();
            for window in megabatches(rows, config.batch_size, config.seed, 0, vocab) {
                let window = window?;
                batches.extend(window.batches.iter().map(|numbers| batch(&window.examples, numbers)));
                if batches.len() >= count || window.epochs[1] >= 1.0 {
                    break;
                }
            }
            batches.truncate(count);
            Ok(batches)
        }
    }
}
