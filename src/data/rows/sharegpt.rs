//! Conversations in the schema of `ShareGPT`: `{"conversations": [{"from": "human", "value": "Hi"}, …]}`.
//!
//! | `from`                                 | role                                                            |
//! |----------------------------------------|-----------------------------------------------------------------|
//! | `system`                               | `system`; a key `system` beside `conversations` is put first    |
//! | `human`, `user`                        | `user`                                                          |
//! | `gpt`, `assistant`, `model`, `chatgpt` | `assistant`                                                     |
//! | `function_call`                        | `assistant` with `tool_calls`; its value is the call as JSON    |
//! | `observation`, `tool`                  | `tool`                                                          |

use serde_json::{Map, Value, json};

use super::fields::{found_keys, parse_nested, take_string, type_name};
use super::messages::parse_messages;

/// Valid values of `from`, for error messages.
const SENDERS: &str =
    "human, user, gpt, assistant, model, chatgpt, system, function_call, observation or tool";

/// Converts the `conversations` of a row to messages for a chat template.
///
/// # Errors
/// The reason, without the location of the row.
pub(super) fn parse_conversations(keys: &mut Map<String, Value>) -> Result<Vec<Value>, String> {
    let system = match keys.get("system") {
        None | Some(Value::Null) => String::new(),
        Some(_) => take_string(keys, "system")?,
    };
    let mut messages = parse_turns("conversations", keys.remove("conversations").unwrap_or_default())?;
    if !system.is_empty() {
        messages.insert(0, json!({"role": "system", "content": system}));
    }
    Ok(messages)
}

/// Converts the turns under `key` to messages. Turns that are messages already are accepted too, since some
/// datasets mix the two schemas.
pub(super) fn parse_turns(key: &str, turns: Value) -> Result<Vec<Value>, String> {
    let turns = parse_nested(key, turns)?;
    let Value::Array(entries) = &turns else {
        return Err(format!(r#""{key}" must be an array, found {}"#, type_name(&turns)));
    };
    if entries.is_empty() {
        return Err(format!(r#""{key}" is empty"#));
    }
    if entries[0].get("role").is_some() {
        return parse_messages(key, turns);
    }
    let turn = |(index, entry): (usize, &Value)| {
        parse_turn(entry).map_err(|reason| format!("{key}[{index}] {reason}"))
    };
    entries.iter().enumerate().map(turn).collect()
}

fn parse_turn(entry: &Value) -> Result<Value, String> {
    let Value::Object(keys) = entry else {
        return Err(format!("must be an object, found {}", type_name(entry)));
    };
    let text = |key: &str| match keys.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!(r#"has a "{key}" that is {}, not a string"#, type_name(other))),
        None => Err(format!(r#"has no "{key}" ({})"#, found_keys(keys))),
    };
    let (from, value) = (text("from")?, text("value")?);
    let role = match from.as_str() {
        "human" | "user" => "user",
        "gpt" | "assistant" | "model" | "chatgpt" => "assistant",
        "system" => "system",
        "observation" | "tool" => "tool",
        "function_call" => {
            return Ok(json!({"role": "assistant", "content": "", "tool_calls": parse_tool_calls(value)?}));
        }
        other => {
            let shown: String = other.chars().take(40).collect();
            return Err(format!(r#"is from "{shown}", expected {SENDERS}"#));
        }
    };
    Ok(json!({"role": role, "content": value}))
}

/// Parses one call or a list of parallel calls into the objects that chat templates iterate over.
fn parse_tool_calls(text: &str) -> Result<Vec<Value>, String> {
    let expected =
        r#"is a function_call whose value must be JSON {"name": …, "arguments": {…}}, or a list of these"#;
    let value: Value = serde_json::from_str(text).map_err(|error| format!("{expected} ({error})"))?;
    let calls = if let Value::Array(calls) = value { calls } else { vec![value] };
    if calls.is_empty() || calls.iter().any(|call| !call["name"].is_string()) {
        return Err(expected.to_owned());
    }
    let call = |call: Value| {
        let arguments = call.get("arguments").or_else(|| call.get("parameters")).cloned();
        json!({"type": "function", "function": {"name": call["name"],
            "arguments": arguments.unwrap_or_else(|| json!({}))}})
    };
    Ok(calls.into_iter().map(call).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Vec<Value>, String> {
        let Value::Object(mut keys) = value else { unreachable!() };
        parse_conversations(&mut keys)
    }

    #[test]
    fn turns_are_renamed() {
        let turns = [("human", "a"), ("gpt", "b"), ("system", "c"), ("observation", "d"), ("tool", "e")];
        let turns: Vec<_> = turns.iter().map(|(from, value)| json!({"from": from, "value": value})).collect();
        let messages = parse(json!({"conversations": turns, "system": "first"})).unwrap();
        let roles: Vec<_> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "system", "tool", "tool"]);
        assert_eq!(messages[0]["content"], "first");
        assert_eq!(messages[2]["content"], "b");
    }

    #[test]
    fn a_function_call_is_what_templates_know_as_tool_calls() {
        let call = r#"{"name": "add", "arguments": {"a": 1}}"#;
        let row = |value: &str| json!({"conversations": [{"from": "function_call", "value": value}]});
        let expected = json!({"type": "function", "function": {"name": "add", "arguments": {"a": 1}}});
        assert_eq!(parse(row(call)).unwrap()[0]["tool_calls"], json!([expected]));
        let both = parse(row(&format!("[{call}, {{\"name\": \"now\"}}]"))).unwrap();
        assert_eq!(both[0]["tool_calls"][1]["function"], json!({"name": "now", "arguments": {}}));
        assert_eq!(both[0]["content"], "");
    }

    #[test]
    fn entries_may_have_roles() {
        let turn = json!({"role": "user", "content": "a"});
        assert_eq!(parse(json!({"conversations": [turn]})).unwrap(), [turn]);
    }

    #[test]
    fn errors_name_the_turn() {
        let call = r#"conversations[0] is a function_call whose value must be JSON {"name": …, "arguments": {…}}, or a list of these"#;
        let good = json!({"from": "human", "value": "a"});
        for (turns, reason) in [
            (json!(1), r#""conversations" must be an array, found a number"#.to_owned()),
            (json!([]), r#""conversations" is empty"#.to_owned()),
            (json!([good, 1]), "conversations[1] must be an object, found a number".to_owned()),
            (json!([{"from": "human"}]), r#"conversations[0] has no "value" (found keys "from")"#.to_owned()),
            (
                json!([good, {"from": "human", "value": null}]),
                r#"conversations[1] has a "value" that is null, not a string"#.to_owned(),
            ),
            (
                json!([{"from": "bot", "value": "a"}]),
                format!(r#"conversations[0] is from "bot", expected {SENDERS}"#),
            ),
            (json!([{"from": "function_call", "value": "{}"}]), call.to_owned()),
            (
                json!([{"from": "function_call", "value": "add(1)"}]),
                format!("{call} (expected value at line 1 column 1)"),
            ),
            (
                json!([{"role": "user", "content": "a"}, {"role": "user"}]),
                r#"conversations[1] has neither "content" nor "tool_calls" (found keys "role")"#.to_owned(),
            ),
        ] {
            assert_eq!(parse(json!({"conversations": turns})), Err(reason));
        }
    }
}
