//! The three parts of a data set: what is learned, what watches over it, what judges at the end.

use std::path::Path;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::{Located, read_rows};
use crate::{Error, Result};

/// Most rows that are held out when there is no validation file.
const MOST_HELD_OUT: usize = 500;

/// Stream of the random generator for the held-out rows; epochs count up from 0 and never meet it.
const HOLD_OUT_STREAM: u64 = u64::MAX;

/// Rows of a data set by use. Each row knows its file and line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Splits {
    /// Rows to learn from; never empty.
    pub train: Vec<Located>,
    /// Rows that measure progress; empty only when the data set is a single row.
    pub valid: Vec<Located>,
    /// Rows for a final measurement; may be empty.
    pub test: Vec<Located>,
}

/// Reads a folder with `train.jsonl` and, if they are there, `valid.jsonl` and `test.jsonl`;
/// or a single jsonl file, which is then the training set.
///
/// Without a validation file 10 % of the training rows (at least 1, at most 500), drawn with `seed`,
/// are held out; a single row stays in the training set.
///
/// # Errors
/// [`Error::Dataset`] naming the path when there is no training file, and what [`read_rows`] finds.
pub fn read_splits(path: &Path, seed: u64) -> Result<Splits> {
    let mut splits = if path.is_dir() {
        let part = |name: &str| {
            let file = path.join(name);
            if file.exists() { read_rows(&file) } else { Ok(Vec::new()) }
        };
        Splits { train: part("train.jsonl")?, valid: part("valid.jsonl")?, test: part("test.jsonl")? }
    } else if path.exists() {
        Splits { train: read_rows(path)?, ..Splits::default() }
    } else {
        return Err(Error::Dataset(format!("{}: no such file or folder", path.display())));
    };
    if splits.train.is_empty() {
        return Err(Error::Dataset(format!(
            "{}: no train.jsonl; a data folder holds train.jsonl and, if you like, valid.jsonl and test.jsonl",
            path.display()
        )));
    }
    if splits.valid.is_empty() {
        (splits.train, splits.valid) = hold_out(splits.train, seed);
    }
    Ok(splits)
}

/// Draws the held-out rows; both parts keep the order of the file.
fn hold_out<T>(rows: Vec<T>, seed: u64) -> (Vec<T>, Vec<T>) {
    let count = (rows.len() / 10).clamp(1, MOST_HELD_OUT).min(rows.len().saturating_sub(1));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(HOLD_OUT_STREAM);
    let mut is_held_out = vec![false; rows.len()];
    is_held_out[..count].fill(true);
    is_held_out.shuffle(&mut rng);

    let mut held_out = is_held_out.into_iter();
    let (valid, train) = rows.into_iter().partition(|_| held_out.next() == Some(true));
    (train, valid)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::Row;

    fn write(folder: &Path, name: &str, texts: &[&str]) {
        let lines: Vec<_> = texts.iter().map(|text| format!("{{\"text\":\"{text}\"}}\n")).collect();
        fs::write(folder.join(name), lines.concat()).unwrap();
    }

    fn texts(rows: &[Located]) -> Vec<&str> {
        rows.iter()
            .map(|row| match &row.row {
                Row::Text(text) => text.as_str(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_folder_gives_its_three_files() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "train.jsonl", &["a", "b"]);
        write(folder.path(), "valid.jsonl", &["c"]);
        write(folder.path(), "test.jsonl", &["d"]);
        let splits = read_splits(folder.path(), 0).unwrap();
        assert_eq!(texts(&splits.train), ["a", "b"]);
        assert_eq!(texts(&splits.valid), ["c"]);
        assert_eq!(texts(&splits.test), ["d"]);
        assert_eq!(splits.train[1].line, 2);
        assert_eq!(&*splits.train[1].path, folder.path().join("train.jsonl"));
    }

    #[test]
    fn a_file_is_the_training_set_and_gives_rows_to_validation() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "notes.jsonl", &["a", "b", "c"]);
        let splits = read_splits(&folder.path().join("notes.jsonl"), 1).unwrap();
        assert_eq!((splits.train.len(), splits.valid.len(), splits.test.len()), (2, 1, 0));
    }

    #[test]
    fn a_tenth_is_held_out_in_order_and_by_seed() {
        for (rows, expected) in [(0, 0), (1, 0), (2, 1), (19, 1), (20, 2), (1000, 100), (9000, 500)] {
            let (train, valid) = hold_out((0..rows).collect(), 3);
            assert_eq!(valid.len(), expected, "of {rows}");
            assert!(train.is_sorted() && valid.is_sorted());
            let mut all = [train, valid].concat();
            all.sort_unstable();
            assert_eq!(all, (0..rows).collect::<Vec<_>>());
        }
        let drawn = |seed| hold_out((0..100).collect::<Vec<u8>>(), seed).1;
        assert_eq!(drawn(5), drawn(5));
        assert_ne!(drawn(5), drawn(6));
    }

    #[test]
    fn missing_files_and_folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "test.jsonl", &["d"]);
        let error = read_splits(folder.path(), 0).unwrap_err();
        let start = format!("{}: no train.jsonl; a data folder holds", folder.path().display());
        assert!(error.to_string().starts_with(&start), "{error}");
        let error = read_splits(Path::new("/no/where"), 0).unwrap_err();
        assert_eq!(error.to_string(), "/no/where: no such file or folder");
    }

    #[test]
    fn an_empty_split_is_an_error_not_an_absent_one() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "train.jsonl", &["a"]);
        write(folder.path(), "valid.jsonl", &[]);
        let error = read_splits(folder.path(), 0).unwrap_err();
        let expected = format!("{}: the file holds no rows", folder.path().join("valid.jsonl").display());
        assert_eq!(error.to_string(), expected);
    }
}
