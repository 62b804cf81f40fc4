//! Rows that know where they stand.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::columns::Columns;
use super::fields::parse_json;
use super::row::Row;
use crate::{Error, Result};

/// Where a row stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// 1-based line.
    Line(usize),
    /// 1-based row, in formats whose lines say nothing.
    Row(usize),
    /// 0-based byte, in files that are not read from their beginning.
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

/// A row and where it stands. It keeps the position, because a row may turn out to be wrong only
/// later, when a chat template or the tokenizer sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct LocatedRow {
    /// What was read.
    pub row: Row,
    /// The file.
    pub path: Arc<Path>,
    /// The position in the file.
    pub position: Position,
}

impl LocatedRow {
    /// Reads the row in `text`, which a caller took from line `line` of `path`.
    ///
    /// # Errors
    /// [`Error::Dataset`] naming file and line for anything that is not a [`Row`].
    pub fn parse(text: &[u8], path: &Arc<Path>, line: usize) -> Result<Self> {
        Self::from_json(parse_json(text), &Columns::default(), path, Position::Line(line))
    }

    /// The row in the JSON `value`, or else the reason why there is none.
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

    /// Puts `path:line: ` in front of an [`Error::Dataset`]; other errors pass unchanged.
    #[must_use]
    pub fn with_location(&self, error: Error) -> Error {
        match error {
            Error::Dataset(reason) => error_at(&self.path, self.position, &reason),
            other => other,
        }
    }
}

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
