//! Tokenizes all rows of a split in parallel.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::labels::Labels;
use super::sample::Sample;
use crate::data::rows::LocatedRow;
use crate::data::text::Tokenizer;
use crate::{Error, Result, threads};

/// Rows whose conversations are rendered with one request.
const ROWS_AT_ONCE: usize = 64;

/// Counts of a tokenized split.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SplitReport {
    /// Number of rows.
    pub rows: usize,
    /// Number of tokens before truncation.
    pub tokens: usize,
    /// Number of tokens of the longest row before truncation.
    pub longest: usize,
    /// Number of rows truncated to the maximum sequence length.
    pub truncated: usize,
    /// Number of rows dropped because they have no targets, at least not within the maximum sequence length.
    pub dropped: usize,
    /// Number of targets of the loss before truncation.
    pub targets: usize,
    /// Number of targets lost by truncation and with dropped rows.
    pub lost_targets: usize,
    /// Number of turns of the assistant that the chat template leaves out of what is learned.
    pub unmarked_turns: usize,
    /// Number of rows by [kind](crate::data::Row::kind).
    pub kinds: BTreeMap<&'static str, usize>,
}

/// The samples of a split, in the order of its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizedSplit {
    /// Samples with at least one target and at most `max_seq_length` tokens; [one or two](Labels::samples_per_row)
    /// per row.
    pub samples: Vec<Sample>,
    /// Counts, including the dropped rows.
    pub report: SplitReport,
}

/// Tokenizes rows in parallel, truncates them to `max_seq_length` tokens and drops those without targets.
///
/// # Errors
/// [`Error::Dataset`] with file and line of the first row that cannot be tokenized, or if no row is left.
pub fn tokenize(
    rows: &[LocatedRow],
    tokenizer: &Tokenizer,
    labels: Labels,
    max_seq_length: usize,
) -> Result<TokenizedSplit> {
    truncate_rows(rows, encode_rows(rows, tokenizer, labels)?, max_seq_length)
}

/// Tokenizes rows in parallel, without truncation; [one or two](Labels::samples_per_row) samples per row.
///
/// # Errors
/// [`Error::Dataset`] with file and line of the first row that cannot be tokenized.
pub fn encode_rows(rows: &[LocatedRow], tokenizer: &Tokenizer, labels: Labels) -> Result<Vec<Sample>> {
    let encode = |rows: &[LocatedRow]| {
        let unlocated: Vec<_> = rows.iter().map(|located| &located.row).collect();
        tokenizer.encode_rows(&unlocated, labels).map_err(|(row, error)| rows[row].with_location(error))
    };
    threads::start()?;
    // All rows are collected before the first error is returned, so that it does not depend on threads.
    let results: Vec<_> = rows.par_chunks(ROWS_AT_ONCE).map(encode).collect();
    Ok(results.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// Truncates the samples of one row to `max_seq_length` tokens. Returns false if the row must be dropped.
pub(in crate::data) fn truncate_row(samples: &mut [Sample], max_seq_length: usize) -> bool {
    for sample in &mut *samples {
        sample.truncate(max_seq_length);
    }
    // Answers that differ only after truncation cannot be compared.
    let answers_differ = samples.windows(2).all(|pair| pair[0] != pair[1]);
    answers_differ && samples.iter().all(Sample::has_targets)
}

/// Truncates samples to `max_seq_length` tokens and drops rows without targets. `whole` has the same number of
/// samples for each of `rows`.
///
/// # Errors
/// [`Error::Dataset`] if no row is left.
pub(in crate::data) fn truncate_rows(
    rows: &[LocatedRow],
    whole: Vec<Sample>,
    max_seq_length: usize,
) -> Result<TokenizedSplit> {
    let mut report = SplitReport { rows: rows.len(), ..SplitReport::default() };
    let mut samples = Vec::with_capacity(rows.len());
    let per_row = whole.len() / rows.len().max(1);
    let mut whole = whole.into_iter();
    for located in rows {
        let mut row_samples: Vec<Sample> = whole.by_ref().take(per_row).collect();
        *report.kinds.entry(located.row.kind()).or_default() += 1;
        let longest = row_samples.iter().map(Sample::len).max().unwrap_or(0);
        report.tokens += row_samples.iter().map(Sample::len).sum::<usize>();
        report.longest = report.longest.max(longest);
        report.unmarked_turns += row_samples.iter().map(|sample| sample.unmarked_turns).sum::<usize>();
        let targets: usize = row_samples.iter().map(Sample::num_targets).sum();
        report.targets += targets;
        report.lost_targets += targets;
        if truncate_row(&mut row_samples, max_seq_length) {
            report.truncated += usize::from(longest > max_seq_length);
            report.lost_targets -= row_samples.iter().map(Sample::num_targets).sum::<usize>();
            samples.append(&mut row_samples);
        } else {
            report.dropped += 1;
        }
    }
    if let (Some(located), []) = (rows.first(), samples.as_slice()) {
        return Err(no_targets_error(&located.path, report.rows, report.longest, max_seq_length));
    }
    Ok(TokenizedSplit { samples, report })
}

/// The error about a file with `rows` rows, the longest of `longest` tokens, none of which has targets.
pub(in crate::data) fn no_targets_error(
    path: &Path,
    rows: usize,
    longest: usize,
    max_seq_length: usize,
) -> Error {
    Error::Dataset(format!(
        "{}: none of the {rows} rows has anything to learn within {max_seq_length} tokens; \
         the longest has {longest} (max_seq_length, mask_prompt)",
        path.display(),
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::data::{Chat, Position, Row, fixture};

    fn located(rows: Vec<Row>) -> Vec<LocatedRow> {
        let path: Arc<Path> = Arc::from(Path::new("d/train.jsonl"));
        (1..)
            .zip(rows)
            .map(|(line, row)| LocatedRow { row, path: Arc::clone(&path), position: Position::Line(line) })
            .collect()
    }

    fn text(text: &str) -> Row {
        Row::Text(text.to_owned())
    }

    fn completion(prompt: &str, completion: &str) -> Row {
        Row::Completion { prompt: prompt.to_owned(), completion: completion.to_owned() }
    }

    #[test]
    fn order_is_kept_and_rows_are_cut_dropped_and_counted() {
        let rows = located(vec![
            text("ab"),
            completion("long prompt", "never seen"),
            text("abcdefgh"),
            completion("pq", "rs"),
        ]);
        let TokenizedSplit { samples, report } =
            tokenize(&rows, &fixture::tokenizer(None), Labels::Completions, 5).unwrap();
        let lengths: Vec<_> = samples.iter().map(Sample::len).collect();
        assert_eq!(lengths, [4, 5, 5]);
        assert_eq!(samples[2].loss_mask, [false, false, false, true, true]);
        let kinds = BTreeMap::from([("completion", 2), ("text", 2)]);
        let expected = SplitReport {
            rows: 4,
            tokens: 4 + 23 + 10 + 6,
            longest: 23,
            truncated: 2,
            dropped: 1,
            targets: 26,
            lost_targets: 17,
            unmarked_turns: 0,
            kinds,
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn a_thousand_rows_stay_in_order() {
        let rows = located((0..1000).map(|i| text(&format!("{i}"))).collect());
        let tokenizer = fixture::tokenizer(None);
        let samples = tokenize(&rows, &tokenizer, Labels::Completions, 64).unwrap().samples;
        for (i, sample) in samples.iter().enumerate() {
            assert_eq!(tokenizer.decode(&sample.ids, true).unwrap(), i.to_string());
        }
    }

    #[test]
    fn the_first_bad_row_is_named() {
        let messages = vec![json!({"role": "user", "content": "a"})];
        let chat = || Row::Chat(Chat { messages: messages.clone(), ..Chat::default() });
        let rows = located(vec![text("a"), chat(), chat()]);
        let error =
            tokenize(&rows, &fixture::tokenizer(None), Labels::Completions, 64).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "d/train.jsonl:2: the row holds messages but the tokenizer has no chat template"
            )
        );
        let template = fixture::tokenizer(Some(fixture::CHATML));
        let error = tokenize(&rows, &template, Labels::Completions, 64).unwrap_err().to_string();
        assert!(error.starts_with("d/train.jsonl:2: no message has the role \"assistant\""), "{error}");
        assert!(tokenize(&rows, &template, Labels::All, 64).is_ok());
    }

    #[test]
    fn a_split_with_nothing_to_learn_is_an_error() {
        let rows = located(vec![completion("a prompt", "x"), completion("another one", "y")]);
        let error = tokenize(&rows, &fixture::tokenizer(None), Labels::Completions, 6).unwrap_err();
        assert_eq!(
            error.to_string(),
            "d/train.jsonl: none of the 2 rows has anything to learn within 6 tokens; \
             the longest has 14 (max_seq_length, mask_prompt)"
        );
    }
}
