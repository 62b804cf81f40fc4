//! Reading and tokenizing the data of a run.

use super::config::TrainingConfig;
use crate::data::{
    Columns, DataReport, Examples, IndexedRows, Sample, SplitReport, Splits, StreamingDataset, Tokenizer,
    describe, pack, read_splits, stream_splits, tokenize,
};
use crate::models::check_tokens;
use crate::progress::Observer;
use crate::rng::digest;
use crate::train::text::data::{TextData, TrainingRows};
use crate::{Error, Result};

/// Maximum number of rows on disk that are sampled for statistics.
const MAX_DESCRIBED_ROWS: usize = 10_000;

/// The tokenized data of a run.
pub(super) struct Dataset<'t> {
    pub(super) data: TextData<'t>,
    /// Numbers of truncated and dropped rows, of those in memory.
    pub(super) skipped: [usize; 2],
}

impl<'t> Dataset<'t> {
    /// Reads and tokenizes the data of `config`; all tokens must be below `vocab`.
    ///
    /// # Errors
    /// Data that cannot be read or used, with file and line; [`Error::Interrupted`].
    pub(super) fn read(
        tokenizer: &'t Tokenizer,
        config: &TrainingConfig,
        vocab: i32,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let (rows, splits) = read_rows(config, observer)?;
        let (labels, max_seq_length) = (config.labels(), config.max_seq_length);
        let check = |samples: &[Sample]| {
            let ids = samples.iter().flat_map(|sample| &sample.ids);
            check_tokens(ids, vocab)
        };
        let mut reports = Vec::new();
        let train = if let Some(rows) = rows {
            TrainingRows::Streamed(StreamingDataset::new(
                rows,
                tokenizer,
                labels,
                max_seq_length,
                config.packing,
            ))
        } else {
            let train = tokenize(&splits.train, tokenizer, labels, max_seq_length)?;
            check(&train.samples)?;
            reports.push(train.report);
            let samples = if config.packing { pack(&train.samples, max_seq_length) } else { train.samples };
            TrainingRows::InMemory(Examples::new(samples, labels))
        };
        let valid = tokenize(&splits.valid, tokenizer, labels, max_seq_length)?;
        check(&valid.samples)?;
        reports.push(valid.report);
        let sum = |count: fn(&SplitReport) -> usize| reports.iter().map(count).sum::<usize>();
        let (truncated, dropped) = (sum(|report| report.truncated), sum(|report| report.dropped));
        let name = config.data.as_deref().unwrap_or_default();
        warn_of_unmarked_turns(config, sum(|report| report.unmarked_turns));
        if truncated + dropped > 0 {
            log::warn!(
                "{name}: {truncated} rows were cut to max_seq_length ({max_seq_length}), {dropped} left out for having \
                 nothing to learn; {} of {} tokens to learn are lost",
                sum(|report| report.lost_targets),
                sum(|report| report.targets),
            );
        }
        let data = TextData {
            train,
            valid: Examples::new(valid.samples, labels),
            vocab_size: vocab,
            max_seq_length,
            pad_id: tokenizer.pad_id(vocab.unsigned_abs()),
        };
        Ok(Self { data, skipped: [truncated, dropped] })
    }
}

fn warn_of_unmarked_turns(config: &TrainingConfig, count: usize) {
    if count > 0 {
        log::warn!(
            "{}: {count} turns of the assistant are not learned, since the chat template does not mark them with \
             {{% generation %}}",
            config.data.as_deref().unwrap_or_default()
        );
    }
}

/// Adds the truncated and dropped rows that `train` has read from disk to those `in_memory`.
pub(super) fn skipped(in_memory: [usize; 2], train: &TrainingRows, config: &TrainingConfig) -> [usize; 2] {
    match train {
        TrainingRows::InMemory(_) => in_memory,
        TrainingRows::Streamed(streamed) => {
            warn_of_unmarked_turns(config, streamed.unmarked_turns());
            let (truncated, dropped) = (streamed.truncated_rows(), streamed.dropped_rows());
            [in_memory[0] + truncated, in_memory[1] + dropped]
        }
    }
}

/// Computes statistics of the data of `config`, over a [sample](MAX_DESCRIBED_ROWS) of training rows on disk.
///
/// # Errors
/// Those of [`Dataset::read`].
pub(super) fn statistics(
    tokenizer: &Tokenizer,
    config: &TrainingConfig,
    observer: &mut dyn Observer,
) -> Result<DataReport> {
    let (rows, mut splits) = read_rows(config, observer)?;
    if let Some(rows) = &rows {
        splits.train = rows.sample(MAX_DESCRIBED_ROWS, config.seed)?;
    }
    let mut report = describe(&splits, tokenizer, config.labels(), config.max_seq_length)?;
    report.train.sampled_from = rows.map(|rows| rows.len()).filter(|&rows| rows > MAX_DESCRIBED_ROWS);
    Ok(report)
}

/// Reads the data as text, with training rows on disk apart.
fn read_rows(config: &TrainingConfig, observer: &mut dyn Observer) -> Result<(Option<IndexedRows>, Splits)> {
    let columns = Columns::parse(config.columns.as_deref().unwrap_or_default())?;
    let data = required("data", config.data.as_deref())?;
    if config.streaming {
        let (rows, splits) = stream_splits(data, &columns, config.seed, observer)?;
        return Ok((Some(rows), splits));
    }
    Ok((None, read_splits(data, &columns, config.seed)?))
}

/// Fingerprint of the training data, which a resumed run must match.
pub(super) fn fingerprint(train: &TrainingRows) -> String {
    match train {
        TrainingRows::InMemory(examples) => examples_fingerprint(examples),
        TrainingRows::Streamed(streamed) => {
            let rows = streamed.rows();
            format!("{} rows, {:016x}", rows.len(), rows.digest())
        }
    }
}

/// Fingerprint of tokenized examples.
pub(super) fn examples_fingerprint(examples: &Examples) -> String {
    let numbers = examples.samples().iter().flat_map(|sample: &Sample| {
        sample
            .ids
            .iter()
            .zip(&sample.loss_mask)
            .map(|(&id, &trained)| u64::from(id) << 1 | u64::from(trained))
    });
    format!("{} rows, {:016x}", examples.len(), digest(numbers))
}

/// Returns a mandatory setting.
pub(super) fn required<'a>(key: &str, value: Option<&'a str>) -> Result<&'a str> {
    value.ok_or_else(|| Error::Config(format!("{key} is missing")))
}
