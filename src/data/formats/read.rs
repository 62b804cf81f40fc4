//! Reads files into rows that know where they stand. The name's ending tells the format:
//!
//! | ending              | rows                                                                                |
//! |---------------------|-------------------------------------------------------------------------------------|
//! | `.json`             | the objects of one array; a file that begins with an object is read as jsonl        |
//! | `.csv`, `.tsv`      | lines of a table whose first line names the columns                                 |
//! | `.parquet`          | rows of a table                                                                     |
//! | `.jsonl` and others | one JSON object per line, blank lines skipped                                       |
//!
//! A UTF-8 byte order mark is tolerated. Nested values (`messages`, `tools`, …) of a table may be JSON in a string.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::{csv, json, jsonl, parquet};
use crate::data::rows::{Columns, Row, row};
use crate::{Error, Result};

/// Endings of the files that hold rows.
pub(in crate::data) const ENDINGS: [&str; 5] = ["jsonl", "json", "csv", "tsv", "parquet"];

/// Bytes of the longest row that is read; a longer one is no training example but a broken file.
pub(in crate::data) const LONGEST_ROW: usize = 16 << 20;

/// Where a row stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// 1-based line.
    Line(usize),
    /// 1-based row, in formats whose lines say nothing.
    Row(usize),
    /// 0-based byte, in files that are not read from their beginning.
    Byte(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "{line}"),
            Self::Row(row) => write!(f, " row {row}"),
            Self::Byte(byte) => write!(f, " byte {byte}"),
        }
    }
}

/// A row and where it stands. It keeps the place, because a row may turn out to be wrong only
/// later, when a chat template or the tokenizer sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// What was read.
    pub row: Row,
    /// The file.
    pub path: Arc<Path>,
    /// The place in the file.
    pub place: Place,
}

impl Located {
    /// Reads the row in `text`, which a caller took from line `line` of `path`.
    ///
    /// # Errors
    /// [`Error::Dataset`] naming file and line for anything that is not a [`Row`].
    pub fn parse(text: &[u8], path: &Arc<Path>, line: usize) -> Result<Self> {
        Self::of(row::json(text), &Columns::default(), path, Place::Line(line))
    }

    /// The row in the JSON `value`, or else the reason why there is none.
    pub(in crate::data) fn of(
        value: Result<Value, String>,
        columns: &Columns,
        path: &Arc<Path>,
        place: Place,
    ) -> Result<Self> {
        let row = value
            .and_then(|value| columns.rename(value))
            .and_then(Row::of)
            .map_err(|reason| located(path, place, &reason))?;
        Ok(Self { row, path: Arc::clone(path), place })
    }

    /// Puts `path:line: ` in front of an [`Error::Dataset`]; other errors pass unchanged.
    #[must_use]
    pub fn blame(&self, error: Error) -> Error {
        match error {
            Error::Dataset(reason) => located(&self.path, self.place, &reason),
            other => other,
        }
    }
}

pub(super) fn located(path: &Path, place: Place, reason: &str) -> Error {
    Error::Dataset(format!("{}:{place}: {reason}", path.display()))
}

pub(super) fn broken(path: &Path, reason: impl fmt::Display) -> Error {
    Error::Dataset(format!("{}: {reason}", path.display()))
}

/// Rows of one file as they are read.
pub(super) struct Rows<'a> {
    pub(super) path: Arc<Path>,
    pub(super) columns: &'a Columns,
    read: Vec<Located>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(path: &Path, columns: &'a Columns) -> Self {
        Self { path: Arc::from(path), columns, read: Vec::new() }
    }

    /// Takes the JSON of one row, or the reason why there is none.
    pub(super) fn push(&mut self, place: Place, value: Result<Value, String>) -> Result<()> {
        self.read.push(Located::of(value, self.columns, &self.path, place)?);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<Located>> {
        if self.read.is_empty() {
            return Err(broken(&self.path, "the file holds no rows"));
        }
        Ok(self.read)
    }
}

/// Reads the rows of a file in the format its name tells.
///
/// # Errors
/// [`Error::Dataset`] naming file and place for anything that is not a [`Row`], and for a file
/// without rows; [`Error::Io`] when the file cannot be read.
pub fn read_rows(path: &Path, columns: &Columns) -> Result<Vec<Located>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut rows = Rows::new(path, columns);
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    match ending.to_str() {
        Some("csv") => csv::read(file, b',', &mut rows)?,
        Some("tsv") => csv::read(file, b'\t', &mut rows)?,
        Some("parquet") => parquet::read(file, &mut rows)?,
        Some("json") => json::read(BufReader::new(file), &mut rows)?,
        _ => jsonl::read(BufReader::new(file), LONGEST_ROW, &mut rows)?,
    }
    rows.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reasons_about_the_data_get_a_place() {
        let path: Arc<Path> = Arc::from(Path::new("d/a.csv"));
        let at = |place| Located { row: Row::Text(String::new()), path: Arc::clone(&path), place };
        let odd = || Error::Dataset("odd".into());
        assert_eq!(at(Place::Line(7)).blame(odd()).to_string(), "d/a.csv:7: odd");
        assert_eq!(at(Place::Row(7)).blame(odd()).to_string(), "d/a.csv: row 7: odd");
        assert_eq!(at(Place::Row(7)).blame(Error::Config("odd".into())).to_string(), "odd");
    }

    #[test]
    fn a_missing_file_is_an_io_error() {
        let error = read_rows(Path::new("/no/such.jsonl"), &Columns::default()).unwrap_err();
        assert!(error.to_string().starts_with("cannot read /no/such.jsonl: "), "{error}");
    }

    #[test]
    fn every_format_holds_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = [
            write("a.jsonl", "{\"prompt\":\"p\",\"completion\":\"c\"}\n"),
            write("lines.json", "\n{\"prompt\":\"p\",\"completion\":\"c\"}\n"),
            write("array.JSON", "\u{feff}[{\"prompt\":\"p\",\"completion\":\"c\"}]"),
            write("a.csv", "completion,prompt\nc,p\n"),
            write("a.tsv", "completion\tprompt\nc\tp\n"),
            write("a.txt", "{\"prompt\":\"p\",\"completion\":\"c\"}\n"),
        ];
        for path in files {
            let rows = read_rows(&path, &Columns::default()).unwrap();
            let expected = Row::Completion { prompt: "p".into(), completion: "c".into() };
            assert_eq!((rows.len(), &rows[0].row), (1, &expected), "{}", path.display());
        }
    }
}
