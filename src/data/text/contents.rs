//! What a tokenizer is made from.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files::{file_error, read_json};
use crate::{Error, Result, files};

/// Largest `tokenizer.json` that is read, in bytes; those of a quarter million tokens have some forty million.
const MAX_BYTES: u64 = 128 << 20;

/// Contents of the files of a tokenizer; files that are not there are null.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// Where further files stand, if there are any.
    pub folder: PathBuf,
    /// Where the tokenizer comes from, for messages.
    pub file: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: String,
    /// `tokenizer_config.json`.
    pub config: Value,
    /// `generation_config.json`.
    pub generation: Value,
    /// `config.json`.
    pub model: Value,
}

impl Contents {
    /// Reads the files of `folder`.
    ///
    /// # Errors
    /// [`Error::ModelLoading`] with the missing or invalid file; [`Error::Io`].
    pub(super) fn of_folder(folder: &Path) -> Result<Self> {
        let file = folder.join("tokenizer.json");
        if !file.exists() {
            return Err(file_error(
                &file,
                "the file is missing; a model folder needs the tokenizer in this format",
            ));
        }
        Ok(Self {
            folder: folder.to_owned(),
            tokenizer: files::read_to_string(&file, MAX_BYTES).map_err(Error::io("read", &file))?,
            config: read_json(&folder.join("tokenizer_config.json"))?,
            generation: read_json(&folder.join("generation_config.json"))?,
            model: read_json(&folder.join("config.json"))?,
            file,
        })
    }
}
