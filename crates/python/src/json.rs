//! Settings come from Python as JSON, and reports go back as JSON.

use efficientai_toolkit::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Settings of a room; their values are checked by the room. Errors name the key.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    let mut parser = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut parser)
        .map_err(|error| Error::Config(explain(&error.path().to_string(), &error.inner().to_string())))
}

/// Says in the words of the other checks of settings what serde found wrong with the value of `key`.
fn explain(key: &str, reason: &str) -> String {
    let key = if key == "." { "an option" } else { key };
    // The text is ours: its lines tell the user nothing.
    let reason = reason.split(" at line ").next().unwrap_or_default();
    let number =
        reason.strip_prefix("invalid value: integer `").and_then(|rest| rest.split_once("`, expected "));
    let Some((value, kind)) = number else { return format!("{key}: {reason}") };
    match kind {
        "u32" | "u64" | "usize" if value.starts_with('-') => {
            format!("{key} is {value}, but must not be negative")
        }
        "u8" => format!("{key} is {value}, expected at most {}", u8::MAX),
        "u32" => format!("{key} is {value}, expected at most {}", u32::MAX),
        other => format!("{key} is {value}, expected {other}"),
    }
}

/// A report as Python receives it.
pub(super) fn json(report: &impl Serialize) -> Result<String> {
    serde_json::to_string(report).map_err(|error| Error::Training(format!("cannot report: {error}")))
}
