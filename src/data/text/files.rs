//! The files of a tokenizer.

use std::fmt::Display;
use std::path::Path;

use serde_json::Value;

use crate::{Error, Result, files};

/// Parses a file; a missing one is null.
///
/// # Errors
/// [`Error::ModelLoading`] with the file; [`Error::Io`].
pub(super) fn read_json(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let bytes = files::read(path, files::MAX_JSON).map_err(Error::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|e| file_error(path, e))
}

/// An [`Error::ModelLoading`] about a file.
pub(super) fn file_error(path: &Path, reason: impl Display) -> Error {
    Error::ModelLoading(format!("{}: {reason}", path.display()))
}
