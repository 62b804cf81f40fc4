//! Collects the rows of a file while it is read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::data::rows::{Columns, LocatedRow, Position};
use crate::{Error, Result};

/// Maximum size of a row in bytes; a longer one means that the file is broken.
pub(in crate::data) const MAX_ROW_BYTES: usize = 16 << 20;

/// An [`Error::Dataset`] about a file as a whole.
pub(super) fn file_error(path: &Path, reason: impl fmt::Display) -> Error {
    Error::Dataset(format!("{}: {reason}", path.display()))
}

/// Rows of one file, in order.
pub(super) struct RowCollector<'a> {
    pub(super) path: Arc<Path>,
    pub(super) columns: &'a Columns,
    rows: Vec<LocatedRow>,
}

impl<'a> RowCollector<'a> {
    /// An empty collector for the file at `path`.
    pub(super) fn new(path: &Path, columns: &'a Columns) -> Self {
        Self { path: Arc::from(path), columns, rows: Vec::new() }
    }

    /// Parses and appends a row; `value` is its JSON, or the reason why it could not be read.
    pub(super) fn push(&mut self, position: Position, value: Result<Value, String>) -> Result<()> {
        self.rows.push(LocatedRow::from_json(value, self.columns, &self.path, position)?);
        Ok(())
    }

    /// Returns the rows.
    ///
    /// # Errors
    /// [`Error::Dataset`] if there are none.
    pub(super) fn finish(self) -> Result<Vec<LocatedRow>> {
        if self.rows.is_empty() {
            return Err(file_error(&self.path, "the file holds no rows"));
        }
        Ok(self.rows)
    }
}
