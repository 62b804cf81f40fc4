//! Settings come from Python as JSON, and reports go back as JSON.

use efficientai_toolkit::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Settings of a room; their values are checked by the room. Errors name the key.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    let mut parser = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut parser).map_err(|error| Error::Config(error.to_string()))
}

/// A report as Python receives it.
pub(super) fn json(report: &impl Serialize) -> Result<String> {
    serde_json::to_string(report).map_err(|error| Error::Training(format!("cannot report: {error}")))
}
