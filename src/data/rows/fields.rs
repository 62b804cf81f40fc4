//! Values of a JSON object, and how error messages describe them.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::lone_surrogate::describe_lone_surrogate;

/// Parses one line of a file.
///
/// # Errors
/// The reason, without the location of the line.
pub(in crate::data) fn parse_json(line: &[u8]) -> Result<Value, String> {
    let line = std::str::from_utf8(line).map_err(|e| {
        let byte = line[e.valid_up_to()];
        format!("not UTF-8: byte 0x{byte:02x} at column {}", e.valid_up_to() + 1)
    })?;
    serde_json::from_str(line).map_err(|error| {
        describe_lone_surrogate(line)
            .unwrap_or_else(|| format!("invalid JSON ({error}); every line must be one whole JSON object"))
    })
}

/// Parses an element of a file that is one array.
///
/// # Errors
/// The reason, without the location of the element.
pub(in crate::data) fn parse_element(element: &RawValue) -> Result<Value, String> {
    serde_json::from_str(element.get()).map_err(|error| {
        describe_lone_surrogate(element.get()).unwrap_or_else(|| format!("invalid JSON ({error})"))
    })
}

/// Removes `key` and returns its string.
pub(super) fn take_string(keys: &mut Map<String, Value>, key: &str) -> Result<String, String> {
    match keys.remove(key) {
        Some(Value::String(text)) => Ok(text),
        other => Err(format!(r#""{key}" must be a string, found {}"#, type_name(&other.unwrap_or_default()))),
    }
}

/// Parses a nested value that tables store as a string of JSON; an empty string is null.
pub(super) fn parse_nested(key: &str, value: Value) -> Result<Value, String> {
    match value {
        Value::String(text) if text.trim().is_empty() => Ok(Value::Null),
        Value::String(text) => serde_json::from_str(&text).map_err(|error| {
            let reason = describe_lone_surrogate(&text).unwrap_or_else(|| error.to_string());
            format!(r#""{key}" is a string that is not JSON ({reason})"#)
        }),
        value => Ok(value),
    }
}

/// The JSON type of `value`, with its article.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// `found keys "a", "b"`, truncated to a length that can always be printed.
pub(in crate::data) fn found_keys(keys: &Map<String, Value>) -> String {
    const SHOWN: usize = 8;
    if keys.is_empty() {
        return "found no keys".to_owned();
    }
    let names: Vec<_> = keys
        .keys()
        .take(SHOWN)
        .map(|key| format!("{:?}", key.chars().take(40).collect::<String>()))
        .collect();
    let more = if keys.len() > SHOWN { ", …" } else { "" };
    format!("found keys {}{more}", names.join(", "))
}
