//! Conversations.

use serde_json::{Map, Value};

use super::fields::{parse_nested, type_name};
use super::messages::{is_messages, parse_tools};
use super::sharegpt;
use crate::data::chat::check_options;

/// A conversation for the chat template.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chat {
    /// Objects with a string `role` and `content` or `tool_calls`, passed to the chat template unchanged.
    pub messages: Vec<Value>,
    /// Number of messages at the beginning that are the prompt: with a prompt mask no loss is taken on them.
    pub prompt_len: usize,
    /// JSON schemas of the tools the assistant may call: an array.
    pub tools: Option<Value>,
    /// Options of the chat template, such as `enable_thinking`.
    pub options: Map<String, Value>,
}

impl Chat {
    /// A conversation with the `tools` and `chat_template_kwargs` of a row.
    ///
    /// # Errors
    /// The reason, without the location of the row.
    pub(super) fn parse(messages: Vec<Value>, row: &mut Map<String, Value>) -> Result<Self, String> {
        let tools = parse_tools(row.remove("tools"))?;
        Ok(Self { messages, prompt_len: 0, tools, options: parse_options(row)? })
    }

    /// The conversation of a row whose `prompt` and `completion` are lists of messages.
    ///
    /// # Errors
    /// The reason, without the location of the row.
    pub(super) fn parse_completion(row: &mut Map<String, Value>) -> Result<Self, String> {
        let mut messages_of = |key: &str, other: &str| match row.remove(key).unwrap_or_default() {
            messages if is_messages(&messages) => sharegpt::parse_turns(key, messages),
            value => Err(format!(
                "\"{key}\" must be a list of messages, as \"{other}\" is, found {}",
                type_name(&value)
            )),
        };
        let prompt = messages_of("prompt", "completion")?;
        let completion = messages_of("completion", "prompt")?;
        if completion[0]["role"] != "assistant" {
            return Err(format!(
                "completion[0] has the role {}, expected \"assistant\"",
                completion[0]["role"]
            ));
        }
        let prompt_len = prompt.len();
        Ok(Self { prompt_len, ..Self::parse([prompt, completion].concat(), row)? })
    }
}

fn parse_options(row: &mut Map<String, Value>) -> Result<Map<String, Value>, String> {
    const KEY: &str = "chat_template_kwargs";
    match parse_nested(KEY, row.remove(KEY).unwrap_or_default())? {
        Value::Null => Ok(Map::new()),
        Value::Object(options) => {
            check_options(&options).map_err(|reason| format!("\"{KEY}\" {reason}"))?;
            Ok(options)
        }
        other => Err(format!("\"{KEY}\" must be an object, found {}", type_name(&other))),
    }
}
