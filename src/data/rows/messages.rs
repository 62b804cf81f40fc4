//! Messages and tools in the schema of chat templates.

use serde_json::Value;

use super::fields::{found_keys, parse_nested, type_name};

/// Parses an array of tools. Tools without the wrapper `{"type": "function", "function": …}` that chat templates
/// expect, such as those of `ShareGPT`, get it.
pub(super) fn parse_tools(value: Option<Value>) -> Result<Option<Value>, String> {
    let wrapped = |tool: Value| {
        if tool.get("name").is_some() && tool.get("function").is_none() && tool.get("type").is_none() {
            serde_json::json!({"type": "function", "function": tool})
        } else {
            tool
        }
    };
    match parse_nested("tools", value.unwrap_or_default())? {
        Value::Null => Ok(None),
        Value::Array(tools) => Ok(Some(tools.into_iter().map(wrapped).collect())),
        other => Err(format!(r#""tools" must be an array, found {}"#, type_name(&other))),
    }
}

/// Whether `value` is a list of messages, not a text.
pub(super) fn is_messages(value: &Value) -> bool {
    value.as_array().is_some_and(|entries| entries.iter().all(Value::is_object))
}

/// Parses and validates the messages under `key`.
pub(super) fn parse_messages(key: &str, value: Value) -> Result<Vec<Value>, String> {
    let value = parse_nested(key, value)?;
    let Value::Array(messages) = value else {
        return Err(format!(r#""{key}" must be an array, found {}"#, type_name(&value)));
    };
    if messages.is_empty() {
        return Err(format!(r#""{key}" is empty"#));
    }
    for (index, message) in messages.iter().enumerate() {
        check_message(message).map_err(|reason| format!("{key}[{index}] {reason}"))?;
    }
    Ok(messages)
}

fn check_message(message: &Value) -> Result<(), String> {
    let Value::Object(keys) = message else {
        return Err(format!("must be an object, found {}", type_name(message)));
    };
    match keys.get("role") {
        Some(Value::String(_)) => {}
        Some(other) => {
            return Err(format!(r#"has a "role" that is {}, not a string"#, type_name(other)));
        }
        None => return Err(format!(r#"has no "role" ({})"#, found_keys(keys))),
    }
    if let Some(weight) = keys.get("weight").filter(|weight| !weight.is_null())
        && ![Some(0.0), Some(1.0)].contains(&weight.as_f64())
    {
        return Err(format!(r#"has the "weight" {weight}, expected 0 or 1"#));
    }
    match keys.get("content") {
        Some(Value::String(_) | Value::Array(_)) => Ok(()),
        None | Some(Value::Null) if keys.contains_key("tool_calls") => Ok(()),
        None => Err(format!(r#"has neither "content" nor "tool_calls" ({})"#, found_keys(keys))),
        Some(other) => Err(format!(r#"has a "content" that is {}, not a string"#, type_name(other))),
    }
}
