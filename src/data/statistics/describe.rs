//! Statistics of the splits of a dataset, computed before training.

use std::collections::HashSet;

use serde::Serialize;

use super::information::{compressed_size, token_entropy};
use super::lengths::{HistogramBin, LengthStatistics, histogram, length_statistics, sorted};
use super::near_duplicates::count_near_duplicates;
use crate::Result;
use crate::data::batches::pack::best_fit_decreasing;
use crate::data::rows::LocatedRow;
use crate::data::samples::tokenize::{encode_rows, truncate_rows};
use crate::data::samples::{Labels, Sample, SplitReport};
use crate::data::splits::Splits;
use crate::data::text::Tokenizer;

/// Answers of preference pairs before truncation. If the chosen answers are mostly the longer ones, the model
/// learns to write long answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PairStatistics {
    /// Number of tokens of the chosen answers.
    pub chosen: LengthStatistics,
    /// Number of tokens of the rejected answers.
    pub rejected: LengthStatistics,
    /// Fraction of pairs whose chosen answer is longer.
    pub chosen_longer: f64,
}

/// Consecutive tokens of a row, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExamplePart {
    /// The text, with special tokens.
    pub text: String,
    /// Whether the tokens are targets of the loss.
    pub learned: bool,
}

/// Statistics of a split.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SplitStatistics {
    /// Numbers of rows and tokens, and of truncated and dropped rows.
    #[serde(flatten)]
    pub report: SplitReport,
    /// Total number of rows, if only a sample of them was analyzed.
    pub sampled_from: Option<usize>,
    /// Number of tokens per row.
    pub lengths: LengthStatistics,
    /// Histogram of the lengths, with bins of equal width.
    pub histogram: Vec<HistogramBin>,
    /// Number of tokens after truncation and dropping.
    pub kept_tokens: usize,
    /// Training split.
    pub trained_tokens: usize,
    /// Number of rows with the same tokens as an earlier one.
    pub duplicates: usize,
    /// Number of rows that have a Jaccard similarity of at least 0.8 in their 5-grams to an earlier one, exact
    /// duplicates included.
    pub near_duplicates: usize,
    /// Number of distinct tokens.
    pub vocabulary: usize,
    /// Entropy of the token frequencies, in bits per token.
    pub entropy: f64,
    /// Size of all texts in bytes.
    pub text_bytes: usize,
    /// Size in bytes after compression with zstd; the more repetitive the texts, the smaller.
    pub compressed_bytes: usize,
    /// Number of rows of maximum sequence length after packing; 0 for pairs, which are not packed.
    pub packed_rows: usize,
    /// Fraction of the packed rows that is not padding.
    pub packing_efficiency: f64,
    /// The first row that is learned from, in parts that are learned or not.
    pub example: Vec<ExamplePart>,
    /// Set if the rows are preference pairs.
    pub pairs: Option<PairStatistics>,
}

/// Statistics of a dataset. A missing split has no rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DataReport {
    /// Rows to learn from.
    pub train: SplitStatistics,
    /// Validation split.
    pub valid: SplitStatistics,
    /// Test split.
    pub test: SplitStatistics,
}

/// Tokenizes all splits and computes their statistics.
///
/// # Errors
/// See [`tokenize`](crate::data::tokenize).
pub fn describe(
    splits: &Splits,
    tokenizer: &Tokenizer,
    labels: Labels,
    max_seq_length: usize,
) -> Result<DataReport> {
    let split = |rows: &[LocatedRow]| statistics(rows, tokenizer, labels, max_seq_length);
    Ok(DataReport { train: split(&splits.train)?, valid: split(&splits.valid)?, test: split(&splits.test)? })
}

fn statistics(
    rows: &[LocatedRow],
    tokenizer: &Tokenizer,
    labels: Labels,
    max_seq_length: usize,
) -> Result<SplitStatistics> {
    if rows.is_empty() {
        return Ok(SplitStatistics::default());
    }
    let whole = encode_rows(rows, tokenizer, labels)?;
    let per_row = labels.samples_per_row();
    let of_rows = whole.chunks(per_row);
    let ids = |row: &[Sample]| row.iter().map(|sample| sample.ids.clone()).collect::<Vec<_>>();
    let distinct = of_rows.clone().map(ids).collect::<HashSet<_>>().len();
    let row_ids: Vec<Vec<u32>> = of_rows.clone().map(|row| ids(row).concat()).collect();
    let (vocabulary, entropy) = token_entropy(&whole);
    let (text_bytes, compressed_bytes) = compressed_size(&whole, tokenizer)?;
    let longest = |row: &[Sample]| row.iter().map(Sample::len).max().unwrap_or(0);
    let sizes = sorted(of_rows.map(longest));
    let pairs = (labels == Labels::PreferencePairs).then(|| pairs(&whole));
    let kept = truncate_rows(rows, whole, max_seq_length)?;
    let kept_sizes: Vec<usize> = kept.samples.iter().map(Sample::len).collect();
    let kept_tokens: usize = kept_sizes.iter().sum();
    let packed_rows = if per_row == 1 { best_fit_decreasing(&kept_sizes, max_seq_length).len() } else { 0 };
    let room = (packed_rows * max_seq_length) as f64;
    Ok(SplitStatistics {
        trained_tokens: kept.samples.iter().map(Sample::num_targets).sum(),
        lengths: length_statistics(&sizes),
        histogram: histogram(&sizes),
        kept_tokens,
        duplicates: rows.len() - distinct,
        near_duplicates: count_near_duplicates(&row_ids),
        vocabulary,
        entropy,
        text_bytes,
        compressed_bytes,
        packed_rows,
        packing_efficiency: if packed_rows > 0 { kept_tokens as f64 / room } else { 0.0 },
        pairs,
        sampled_from: None,
        example: kept.samples.first().map_or_else(|| Ok(Vec::new()), |sample| example(sample, tokenizer))?,
        report: kept.report,
    })
}

/// Splits `sample` where its loss mask changes.
fn example(sample: &Sample, tokenizer: &Tokenizer) -> Result<Vec<ExamplePart>> {
    let mut start = 0;
    let part = |mask: &[bool]| {
        let ids = &sample.ids[start..start + mask.len()];
        start += mask.len();
        Ok(ExamplePart { text: tokenizer.decode(ids, false)?, learned: mask[0] })
    };
    sample.loss_mask.chunk_by(|a, b| a == b).map(part).collect()
}

/// Statistics of samples that alternate between chosen and rejected answers.
fn pairs(samples: &[Sample]) -> PairStatistics {
    let targets = |first: usize| samples.iter().skip(first).step_by(2).map(Sample::num_targets);
    let (chosen, rejected) = (targets(0), targets(1));
    let longer = chosen.clone().zip(rejected.clone()).filter(|(chosen, rejected)| chosen > rejected).count();
    PairStatistics {
        chosen_longer: longer as f64 / (samples.len() / 2).max(1) as f64,
        chosen: length_statistics(&sorted(chosen)),
        rejected: length_statistics(&sorted(rejected)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::data::{Position, Row, fixture};

    fn located(rows: Vec<Row>) -> Vec<LocatedRow> {
        let path: Arc<Path> = Arc::from(Path::new("d/train.jsonl"));
        let located =
            |(line, row)| LocatedRow { row, path: Arc::clone(&path), position: Position::Line(line) };
        (1..).zip(rows).map(located).collect()
    }

    #[test]
    fn a_data_set_is_described_by_split() {
        let text = |text: &str| Row::Text(text.to_owned());
        let splits = Splits {
            train: located(vec![text("ab"), text("c"), text("ab"), text("abcdef")]),
            valid: located(vec![Row::Completion { prompt: "p".into(), completion: "c".into() }]),
            test: Vec::new(),
        };
        let report = describe(&splits, &fixture::tokenizer(None), Labels::Completions, 7).unwrap();
        let mut train = serde_json::to_value(&report.train).unwrap();
        // Another version of zstd may make more or less of them.
        let compressed = train.as_object_mut().unwrap().shift_remove("compressed_bytes").unwrap();
        assert!((10..40).contains(&compressed.as_u64().unwrap()), "{compressed}");
        // Of 19 tokens 4, 4, 3, 3, 2, 1, 1 and 1 are equal.
        let entropy = train.as_object_mut().unwrap().shift_remove("entropy").unwrap();
        assert!((entropy.as_f64().unwrap() - 2.800_044_618_479).abs() < 1e-9, "{entropy}");
        assert_eq!(
            train,
            json!({
                "rows": 4, "tokens": 19, "longest": 8, "truncated": 1, "dropped": 0, "targets": 15, "lost_targets": 1,
                "unmarked_turns": 0, "kinds": {"text": 4}, "sampled_from": null,
                "lengths": {"min": 3, "median": 4, "mean": 4.75, "p95": 8, "max": 8},
                "histogram": [
                    {"from": 3, "to": 3, "rows": 1}, {"from": 4, "to": 4, "rows": 2}, {"from": 5, "to": 5, "rows": 0},
                    {"from": 6, "to": 6, "rows": 0}, {"from": 7, "to": 7, "rows": 0}, {"from": 8, "to": 8, "rows": 1},
                ],
                "kept_tokens": 18, "trained_tokens": 14, "duplicates": 1, "near_duplicates": 1, "vocabulary": 8,
                "text_bytes": 14,
                "packed_rows": 3, "packing_efficiency": 18.0 / 21.0, "pairs": null,
                "example": [{"text": "<s>", "learned": false}, {"text": "ab</s>", "learned": true}],
            })
        );
        assert_eq!((report.valid.report.rows, report.valid.trained_tokens), (1, 2));
        assert_eq!(report.test, SplitStatistics::default());
    }
}
