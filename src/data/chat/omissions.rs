//! What a template leaves out of a message.

use std::ops::Range;

use serde_json::Value;

/// The part of `message` that `spans` of `text` have nothing of: its content, or its tool calls. Templates may cut,
/// quote or restyle what they render, so one word of it is enough.
pub(super) fn omitted(message: &Value, text: &str, spans: &[Range<usize>]) -> Option<&'static str> {
    let has = |word: &str| spans.iter().any(|span| text[span.clone()].contains(word));
    let contents = match &message["content"] {
        Value::String(content) => vec![content.as_str()],
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => Vec::new(),
    };
    // Reasoning in the content is often left out on purpose.
    let answers = contents.iter().map(|content| content.rsplit("</think>").next().unwrap_or_default());
    let words = answers.flat_map(|answer| answer.split(|c: char| !c.is_alphanumeric()));
    let mut words = words.filter(|word| !word.is_empty()).peekable();
    if words.peek().is_some() && !words.any(has) {
        return Some("content");
    }
    let calls = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
    let name =
        |call: &Value| call["function"]["name"].as_str().or_else(|| call["name"].as_str()).map(str::to_owned);
    let is_omitted = |call| name(call).is_some_and(|name| !has(&name));
    calls.iter().any(is_omitted).then_some("tool calls")
}
