//! Settings of a file.

use serde::{Deserialize, Serialize};

use super::file_type::FileType;
use crate::{Error, Result};

/// What a file is to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GgufConfig {
    /// Number formats of the weights.
    pub r#type: FileType,
    /// File or folder of calibration text; `None` for weights that count alike.
    pub calibration: Option<String>,
    /// Maximum number of calibration sequences.
    pub calibration_sequences: usize,
    /// Tokens per calibration sequence.
    pub sequence_length: usize,
    /// Seed of the calibration text.
    pub seed: u64,
}

impl Default for GgufConfig {
    fn default() -> Self {
        Self {
            r#type: FileType::Auto,
            calibration: None,
            calibration_sequences: 64,
            sequence_length: 512,
            seed: 0,
        }
    }
}

impl GgufConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in
            [("calibration_sequences", self.calibration_sequences), ("sequence_length", self.sequence_length)]
        {
            if value == 0 {
                return Err(Error::Config(format!("{name} must be at least 1, not 0")));
            }
        }
        Ok(())
    }
}

/// What is known of a model besides its files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Name of the model.
    pub name: String,
    /// Identifier of the licence.
    pub license: Option<String>,
    /// Name of a licence without identifier.
    pub license_name: Option<String>,
    /// Address of the licence.
    pub license_link: Option<String>,
    /// Hub ids of the models that this one was made from.
    pub base_models: Vec<String>,
    /// Tags of the hub.
    pub tags: Vec<String>,
    /// Codes of languages.
    pub languages: Vec<String>,
}
