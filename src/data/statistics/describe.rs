//! What a data set amounts to, before anybody trains on it.

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

/// The answers of pairs, before anything is cut. Where the preferred ones are longer throughout, a model learns to be
/// long.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PairStatistics {
    /// Tokens of the preferred answers.
    pub chosen: LengthStatistics,
    /// Tokens of the others.
    pub rejected: LengthStatistics,
    /// Share of pairs whose preferred answer is the longer one.
    pub chosen_longer: f64,
}

/// What a split holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SplitStatistics {
    /// Rows, tokens, and what is cut or left out.
    #[serde(flatten)]
    pub report: SplitReport,
    /// Rows on disk of which those counted here were drawn.
    pub sampled_from: Option<usize>,
    /// Tokens per row.
    pub lengths: LengthStatistics,
    /// Rows by length, in bars of one width, from the shortest to the longest.
    pub histogram: Vec<HistogramBin>,
    /// Tokens that remain when rows are cut and left out.
    pub kept_tokens: usize,
    /// Those of them that are learned.
    pub trained_tokens: usize,
    /// Rows whose tokens an earlier row has too.
    pub duplicates: usize,
    /// Rows that have four fifths of their sequences of five tokens in common with an earlier one; repeated rows among
    /// them.
    pub near_duplicates: usize,
    /// Different tokens.
    pub vocabulary: usize,
    /// Bits per token for a reader who knows nothing but how frequent each is.
    pub entropy: f64,
    /// Bytes of all texts.
    pub text_bytes: usize,
    /// Bytes that zstd makes of them: the more they repeat, the fewer.
    pub compressed_bytes: usize,
    /// Rows of the longest sequence allowed that hold all samples when they are packed; pairs are not.
    pub packed_rows: usize,
    /// Share of those rows that is not padding.
    pub packing_efficiency: f64,
    /// The answers, where rows are pairs.
    pub pairs: Option<PairStatistics>,
}

/// What a data set holds. A split that is not there has no rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DataReport {
    /// Rows to learn from.
    pub train: SplitStatistics,
    /// Rows that measure progress.
    pub valid: SplitStatistics,
    /// Rows for a final measurement.
    pub test: SplitStatistics,
}

/// Tokenises every split and reports what is there.
///
/// # Errors
/// As [`tokenize`](crate::data::tokenize).
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
        report: kept.report,
    })
}

/// Of samples of which each second one is that of a preferred answer.
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
                "rows": 4, "tokens": 19, "longest": 8, "truncated": 1, "dropped": 0, "kinds": {"text": 4}, "sampled_from": null,
                "lengths": {"min": 3, "median": 4, "mean": 4.75, "p95": 8, "max": 8},
                "histogram": [
                    {"from": 3, "to": 3, "rows": 1}, {"from": 4, "to": 4, "rows": 2}, {"from": 5, "to": 5, "rows": 0},
                    {"from": 6, "to": 6, "rows": 0}, {"from": 7, "to": 7, "rows": 0}, {"from": 8, "to": 8, "rows": 1},
                ],
                "kept_tokens": 18, "trained_tokens": 14, "duplicates": 1, "near_duplicates": 1, "vocabulary": 8,
                "text_bytes": 14,
                "packed_rows": 3, "packing_efficiency": 18.0 / 21.0, "pairs": null,
            })
        );
        assert_eq!((report.valid.report.rows, report.valid.trained_tokens), (1, 2));
        assert_eq!(report.test, SplitStatistics::default());
    }
}
