//! Settings of the choice of a subset.

use serde::{Deserialize, Serialize};

use crate::data::Columns;
use crate::{Error, Result};

/// How rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowFormat {
    /// One JSON object per line.
    Jsonl,
    /// Token ids, which only models with the same tokenizer read.
    Tokens,
}

/// Settings of the choice of a subset. Defaults are those of [`Default`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubsetConfig {
    /// Folder of the model that embeds the rows.
    pub model_path: Option<String>,
    /// File of rows, or folder with a training split.
    pub data: Option<String>,
    /// Output folder.
    pub output: Option<String>,
    /// Fraction of the rows that is chosen.
    pub fraction: f64,
    /// How the rows are stored.
    pub format: RowFormat,
    /// Column names, as in training.
    pub columns: Option<Vec<String>>,
    /// Seed of the division of data sets of more than 4096 rows.
    pub seed: u64,
    /// Whether to replace an earlier result.
    pub overwrite: bool,
}

impl Default for SubsetConfig {
    fn default() -> Self {
        Self {
            model_path: None,
            data: None,
            output: None,
            fraction: 0.25,
            format: RowFormat::Jsonl,
            columns: None,
            seed: 0,
            overwrite: false,
        }
    }
}

impl SubsetConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first invalid value, by name.
    pub fn validate(&self) -> Result<()> {
        if !(self.fraction > 0.0 && self.fraction <= 1.0) {
            return Err(Error::Config(format!(
                "fraction is {}, expected above 0 and at most 1, such as 0.25",
                self.fraction
            )));
        }
        self.parsed_columns().map(drop)
    }

    /// Column names, as rows are read with.
    ///
    /// # Errors
    /// An invalid entry.
    pub(super) fn parsed_columns(&self) -> Result<Columns> {
        Columns::parse(self.columns.as_deref().unwrap_or_default())
    }
}
