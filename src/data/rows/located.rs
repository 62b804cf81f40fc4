//! Rows with their location, for error messages.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::columns::Columns;
use super::fields::parse_json;
use super::row::Row;
use crate::{Error, Result};

/// The position of a row in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// 1-based line.
    Line(usize),
    /// 1-based row, in formats where rows are not lines.
    Row(usize),
    /// 0-based byte offset, in files that are read by random access.
    Byte(u64),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "{line}"),
            Self::Row(row) => write!(f, " row {row}"),
            Self::Byte(byte) => write!(f, " byte {byte}"),
        }
    }
}

/// A row and its location, kept because a row may turn out to be invalid only when the chat template or the
/// tokenizer processes it.
#[derive(Debug, Clone, PartialEq)]
pub struct LocatedRow {
    /// The row.
    pub row: Row,
    /// The file it was read from.
    pub path: Arc<Path>,
    /// Its position in the file.
    pub position: Position,
}

impl LocatedRow {
    /// Parses `text`, which the caller read from line `line` of `path`.
    ///
    /// # Errors
    /// [`Error::Dataset`] with file and line if `text` is not a valid [`Row`].
    pub fn parse(text: &[u8], path: &Arc<Path>, line: usize) -> Result<Self> {
        Self::from_json(parse_json(text), &Columns::default(), path, Position::Line(line))
    }

    /// Parses `value`; an `Err` is the reason why the JSON could not be read.
    ///
    /// # Errors
    /// [`Error::Dataset`] with file and position.
    pub(in crate::data) fn from_json(
        value: Result<Value, String>,
        columns: &Columns,
        path: &Arc<Path>,
        position: Position,
    ) -> Result<Self> {
        let row = value
            .and_then(|value| columns.rename(value))
            .and_then(Row::from_json)
            .map_err(|reason| error_at(path, position, &reason))?;
        Ok(Self { row, path: Arc::clone(path), position })
    }

    /// Prefixes an [`Error::Dataset`] with `path:line: `; other errors are returned unchanged.
    #[must_use]
    pub fn with_location(&self, error: Error) -> Error {
        match error {
            Error::Dataset(reason) => error_at(&self.path, self.position, &reason),
            other => other,
        }
    }
}

/// An [`Error::Dataset`] prefixed with its location.
pub(in crate::data) fn error_at(path: &Path, position: Position, reason: &str) -> Error {
    Error::Dataset(format!("{}:{position}: {reason}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reasons_about_the_data_get_a_place() {
        let path: Arc<Path> = Arc::from(Path::new("d/a.csv"));
        let at = |position| LocatedRow { row: Row::Text(String::new()), path: Arc::clone(&path), position };
        let odd = || Error::Dataset("odd".into());
        assert_eq!(at(Position::Line(7)).with_location(odd()).to_string(), "d/a.csv:7: odd");
        assert_eq!(at(Position::Row(7)).with_location(odd()).to_string(), "d/a.csv: row 7: odd");
        assert_eq!(at(Position::Row(7)).with_location(Error::Config("odd".into())).to_string(), "odd");
    }
}
