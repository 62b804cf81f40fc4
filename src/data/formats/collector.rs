//! Rows of one file as they are read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::data::rows::{Columns, Located, Place};
use crate::{Error, Result};

/// Bytes of the longest row that is read; a longer one is no training example but a broken file.
pub(in crate::data) const LONGEST_ROW: usize = 16 << 20;

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
