//! Analysis of data and gradients, for choosing ranks.

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

/// Settings of the gradient analysis.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnalysisSettings {
    /// Number of training batches over which the gradient is averaged.
    pub batches: usize,
    /// Maximum number of singular values per layer.
    pub width: u32,
}

/// Result of the analysis.
#[derive(Debug, Clone, Serialize)]
pub struct Analysis {
    /// Statistics of each split.
    pub data: DataReport,
    /// Gradient spectrum of each adapted layer, in the order of the model.
    pub layers: Vec<Spectrum>,
}

/// Analyzes data and gradients of the run described by `config`. Removes all adapters of `model`.
///
/// # Errors
/// An invalid configuration; unusable data; [`Error::Interrupted`].
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
    let batches = batches(&data.train, config, probe.batches, data.pad_id, vocab)?;
    Ok(Analysis { data: report, layers: gradient_spectra(model, &batches, config, probe.width, observer)? })
}

/// Returns the first `count` batches of the run.
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
            for megabatch in megabatches(rows, config.batch_size, config.seed, 0, vocab) {
                let megabatch = megabatch?;
                batches.extend(megabatch.batches.iter().map(|numbers| batch(&megabatch.examples, numbers)));
                if batches.len() >= count || megabatch.epochs[1] >= 1.0 {
                    break;
                }
            }
            batches.truncate(count);
            Ok(batches)
        }
    }
}
