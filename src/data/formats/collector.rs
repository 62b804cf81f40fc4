//! Collects the rows of a file while it is read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::data::rows::located::error_at;
use crate::data::rows::{Columns, LocatedRow, Position, Row, TokenRow};
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
    /// The JSON of each row, if it is kept.
    json: Option<Vec<Value>>,
    /// The JSON of each row with its position, in place of rows of text.
    objects: Option<Vec<(Position, Value)>>,
}

impl<'a> RowCollector<'a> {
    /// An empty collector for the file at `path`.
    pub(super) fn new(path: &Path, columns: &'a Columns) -> Self {
        Self { path: Arc::from(path), columns, rows: Vec::new(), json: None, objects: None }
    }

    /// As [`new`](Self::new), and keeps the JSON of each row.
    pub(super) fn keeping_json(path: &Path, columns: &'a Columns) -> Self {
        Self { json: Some(Vec::new()), ..Self::new(path, columns) }
    }

    /// A collector of JSON alone, whatever its columns.
    pub(super) fn of_objects(path: &Path, columns: &'a Columns) -> Self {
        Self { objects: Some(Vec::new()), ..Self::new(path, columns) }
    }

    /// Parses and appends a row; `value` is its JSON, or the reason why it could not be read.
    pub(super) fn push(&mut self, position: Position, value: Result<Value, String>) -> Result<()> {
        if let Some(objects) = &mut self.objects {
            objects.push((position, value.map_err(|reason| error_at(&self.path, position, &reason))?));
            return Ok(());
        }
        if let (Some(json), Ok(value)) = (&mut self.json, &value) {
            json.push(value.clone());
        }
        self.rows.push(LocatedRow::from_json(value, self.columns, &self.path, position)?);
        Ok(())
    }

    /// Appends a row of token ids.
    pub(super) fn push_tokens(&mut self, row: TokenRow) {
        let position = Position::Row(self.rows.len() + 1);
        self.rows.push(LocatedRow { row: Row::Tokens(row), path: Arc::clone(&self.path), position });
    }

    /// Returns the JSON that was kept.
    pub(super) fn take_json(&mut self) -> Vec<Value> {
        self.json.take().unwrap_or_default()
    }

    /// Returns the JSON of all rows.
    ///
    /// # Errors
    /// [`Error::Dataset`] if there are none.
    pub(super) fn finish_objects(self) -> Result<Vec<(Position, Value)>> {
        match self.objects {
            Some(objects) if !objects.is_empty() => Ok(objects),
            _ => Err(file_error(&self.path, "the file holds no rows")),
        }
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
