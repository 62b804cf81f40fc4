//! Rows of one file as they are read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::data::rows::{Columns, LocatedRow, Position};
use crate::{Error, Result};

/// Bytes of the longest row that is read; a longer one is no training example but a broken file.
pub(in crate::data) const MAX_ROW_BYTES: usize = 16 << 20;

pub(super) fn file_error(path: &Path, reason: impl fmt::Display) -> Error {
    Error::Dataset(format!("{}: {reason}", path.display()))
}

/// Rows of one file as they are read.
pub(super) struct RowCollector<'a> {
    pub(super) path: Arc<Path>,
    pub(super) columns: &'a Columns,
    rows: Vec<LocatedRow>,
}

impl<'a> RowCollector<'a> {
    pub(super) fn new(path: &Path, columns: &'a Columns) -> Self {
        Self { path: Arc::from(path), columns, rows: Vec::new() }
    }

    /// Takes the JSON of one row, or the reason why there is none.
    pub(super) fn push(&mut self, position: Position, value: Result<Value, String>) -> Result<()> {
        self.rows.push(LocatedRow::from_json(value, self.columns, &self.path, position)?);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<LocatedRow>> {
        if self.rows.is_empty() {
            return Err(file_error(&self.path, "the file holds no rows"));
        }
        Ok(self.rows)
    }
}
