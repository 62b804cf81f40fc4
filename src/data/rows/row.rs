//! One training example as read from a file.
//!
//! | keys                                                                          | row                  | loss on               |
//! |-------------------------------------------------------------------------------|----------------------|-----------------------|
//! | `chosen`, `rejected` and usually a prompt ([pairs](super::pair))              | [`Row::Pair`]        | preference            |
//! | `prompt`, `completion`                                                        | [`Row::Completion`]  | the completion        |
//! | `prompt`, `completion` as lists of messages, optionally `tools`               | [`Row::Chat`]        | the completion        |
//! | `messages`, optionally `tools`                                                | [`Row::Chat`]        | the assistant's turns |
//! | `conversations`, optionally `system`, `tools` ([`ShareGPT`](super::sharegpt)) | [`Row::Chat`]        | the assistant's turns |
//! | `instruction`, `output`, optionally more ([Alpaca](super::alpaca))            | [`Row::Instruction`] | the output            |
//! | `text`                                                                        | [`Row::Text`]        | all tokens            |
//!
//! The first matching line of the table decides; other keys are ignored, as in mlx-lm. Conversations may have
//! `chat_template_kwargs`, options of the chat template.

use serde_json::Value;

use super::alpaca::Instruction;
use super::chat::Chat;
use super::fields::{found_keys, take_string, type_name};
use super::messages::{is_messages, parse_messages};
use super::pair::{ANSWER_KEYS, Pair};
use super::sharegpt;
use super::tokens::TokenRow;

/// The end of the error message about a row that matches no schema.
pub(in crate::data) const EXPECTED_KEYS: &str = r#"a row needs "text", or "prompt" and "completion", or "messages", or "conversations", or "instruction" and "output", or "chosen" and "rejected""#;

/// A training example before tokenization.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// Plain text; the loss is taken on all tokens.
    Text(String),
    /// A prompt and its completion; with a prompt mask the loss is taken on the completion only.
    Completion {
        /// The prompt.
        prompt: String,
        /// The expected completion.
        completion: String,
    },
    /// A conversation; with a prompt mask the loss is taken on the assistant's turns only.
    Chat(Chat),
    /// An instruction and its output; with a prompt mask the loss is taken on the output only.
    Instruction(Instruction),
    /// Two answers to one prompt, the first of which is preferred.
    Pair(Pair),
    /// Token ids, from a file that holds nothing else; with a prompt mask the loss is taken on those that the file says.
    Tokens(TokenRow),
}

impl Row {
    /// The name used in reports: `text`, `completion`, `chat`, `instruction`, `pair` or `tokens`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Completion { .. } => "completion",
            Self::Chat(_) => "chat",
            Self::Instruction(_) => "instruction",
            Self::Pair(_) => "pair",
            Self::Tokens(_) => "tokens",
        }
    }

    /// Parses a JSON object.
    ///
    /// # Errors
    /// The reason, without the location of the row.
    pub(super) fn from_json(value: Value) -> Result<Self, String> {
        let Value::Object(mut keys) = value else {
            return Err(format!("a row must be a JSON object, found {}", type_name(&value)));
        };
        if ANSWER_KEYS.iter().all(|&side| keys.contains_key(side)) {
            return Pair::parse(&mut keys).map(Self::Pair);
        }
        if keys.contains_key("prompt") && keys.contains_key("completion") {
            if ["prompt", "completion"].iter().any(|&key| is_messages(&keys[key])) {
                return Chat::parse_completion(&mut keys).map(Self::Chat);
            }
            let prompt = take_string(&mut keys, "prompt")?;
            let completion = take_string(&mut keys, "completion")?;
            return Ok(Self::Completion { prompt, completion });
        }
        if let Some(messages) = keys.remove("messages") {
            return Chat::parse(parse_messages("messages", messages)?, &mut keys).map(Self::Chat);
        }
        if keys.contains_key("conversations") {
            return Chat::parse(sharegpt::parse_conversations(&mut keys)?, &mut keys).map(Self::Chat);
        }
        if keys.contains_key("instruction") && keys.contains_key("output") {
            return Instruction::parse(&mut keys).map(Self::Instruction);
        }
        if keys.contains_key("text") {
            return Ok(Self::Text(take_string(&mut keys, "text")?));
        }
        if ANSWER_KEYS.iter().any(|&side| keys.contains_key(side)) {
            return Pair::parse(&mut keys).map(Self::Pair);
        }
        Err(format!("{}; {EXPECTED_KEYS}", found_keys(&keys)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::data::rows::fields;

    fn parse(line: &str) -> Result<Row, String> {
        Row::from_json(fields::parse_json(line.as_bytes())?)
    }

    #[test]
    fn three_kinds_of_rows() {
        assert_eq!(parse(r#"{"text": "a", "id": 3}"#), Ok(Row::Text("a".into())));
        assert_eq!(
            parse(r#"{"completion":"c","prompt":"p"}"#),
            Ok(Row::Completion { prompt: "p".into(), completion: "c".into() })
        );
        let messages = vec![json!({"role": "user", "content": "hi"})];
        assert_eq!(
            parse(r#"{"messages":[{"role":"user","content":"hi"}],"tools":[]}"#),
            Ok(Row::Chat(Chat { messages: messages.clone(), tools: Some(json!([])), ..Chat::default() }))
        );
        assert_eq!(
            parse(r#"{"messages":[{"role":"user","content":"hi"}],"tools":null}"#),
            Ok(Row::Chat(Chat { messages, ..Chat::default() }))
        );
    }

    #[test]
    fn the_first_kind_that_fits_wins() {
        let kind = |line| parse(line).unwrap().kind();
        assert_eq!(kind(r#"{"text":"t","messages":[],"prompt":"p","completion":"c"}"#), "completion");
        assert_eq!(kind(r#"{"text":"t","messages":[{"role":"user","content":"hi"}]}"#), "chat");
        assert_eq!(kind(r#"{"text":"t","prompt":"p"}"#), "text");
    }

    #[test]
    fn instructions_and_conversations_of_others() {
        // tatsu-lab/alpaca has the rendered text beside the parts.
        let row = parse(r#"{"instruction":"add","input":"","output":"3","text":"Below is"}"#).unwrap();
        let expected =
            Instruction { instruction: "add".into(), output: "3".into(), ..Instruction::default() };
        assert_eq!((row.kind(), &row), ("instruction", &Row::Instruction(expected)));
        let row = parse(r#"{"conversations":[{"from":"gpt","value":"a"}],"tools":"[{\"name\":\"f\"}]"}"#);
        let messages = vec![json!({"role": "assistant", "content": "a"})];
        let tools = Some(json!([{"type": "function", "function": {"name": "f"}}]));
        assert_eq!(row, Ok(Row::Chat(Chat { messages, tools, ..Chat::default() })));
    }

    #[test]
    fn prompts_and_completions_may_be_messages() {
        let row = parse(
            r#"{"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"assistant","content":"b"}],
                "chat_template_kwargs":{"enable_thinking":false}}"#,
        );
        let messages =
            vec![json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b"})];
        let options = [("enable_thinking".to_owned(), json!(false))].into_iter().collect();
        assert_eq!(row, Ok(Row::Chat(Chat { messages, prompt_len: 1, tools: None, options })));
    }

    #[test]
    fn a_message_may_be_parts_or_calls() {
        for message in [
            r#"{"role":"user","content":[{"type":"text","text":"a"}]}"#,
            r#"{"role":"assistant","content":null,"tool_calls":[]}"#,
            r#"{"role":"assistant","tool_calls":[]}"#,
        ] {
            assert!(parse(&format!(r#"{{"messages":[{message}]}}"#)).is_ok(), "{message}");
        }
    }

    #[test]
    fn a_wrong_row_is_told_what_is_right() {
        for (line, reason) in [
            (r#"{"input":"a","output":"b"}"#, format!(r#"found keys "input", "output"; {EXPECTED_KEYS}"#)),
            (r#"{"prompt":"a"}"#, format!(r#"found keys "prompt"; {EXPECTED_KEYS}"#)),
            ("{}", format!("found no keys; {EXPECTED_KEYS}")),
            ("[1]", "a row must be a JSON object, found an array".into()),
            ("3", "a row must be a JSON object, found a number".into()),
            (r#"{"text":7}"#, r#""text" must be a string, found a number"#.into()),
            (r#"{"prompt":"a","completion":null}"#, r#""completion" must be a string, found null"#.into()),
            (
                r#"{"messages":"hi"}"#,
                r#""messages" is a string that is not JSON (expected value at line 1 column 1)"#.into(),
            ),
            (r#"{"messages":"{}"}"#, r#""messages" must be an array, found an object"#.into()),
            (r#"{"messages":[]}"#, r#""messages" is empty"#.into()),
            (r#"{"messages":[true]}"#, "messages[0] must be an object, found a boolean".into()),
            (
                r#"{"messages":[{"content":"x"}]}"#,
                r#"messages[0] has no "role" (found keys "content")"#.into(),
            ),
            (
                r#"{"messages":[{"role":1,"content":"x"}]}"#,
                r#"messages[0] has a "role" that is a number, not a string"#.into(),
            ),
            (
                r#"{"messages":[{"role":"user"}]}"#,
                r#"messages[0] has neither "content" nor "tool_calls" (found keys "role")"#.into(),
            ),
            (
                r#"{"messages":[{"role":"user","content":null}]}"#,
                r#"messages[0] has a "content" that is null, not a string"#.into(),
            ),
            (
                r#"{"messages":[{"role":"user","content":"x"}],"tools":"add"}"#,
                r#""tools" is a string that is not JSON (expected value at line 1 column 1)"#.into(),
            ),
            (
                r#"{"prompt":"a","completion":[{"role":"assistant","content":"b"}]}"#,
                r#""prompt" must be a list of messages, as "completion" is, found a string"#.into(),
            ),
            (
                r#"{"prompt":[{"role":"user","content":"a"}],"completion":[{"role":"user","content":"b"}]}"#,
                r#"completion[0] has the role "user", expected "assistant""#.into(),
            ),
            (
                r#"{"messages":[{"role":"assistant","content":"x","weight":0.5}]}"#,
                r#"messages[0] has the "weight" 0.5, expected 0 or 1"#.into(),
            ),
            (
                r#"{"messages":[{"role":"user","content":"x"}],"chat_template_kwargs":[]}"#,
                r#""chat_template_kwargs" must be an object, found an array"#.into(),
            ),
            (
                r#"{"messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"messages":[]}}"#,
                r#""chat_template_kwargs" cannot set "messages", which is given by the conversation"#.into(),
            ),
            (
                r#"{"messages":[{"role":"user","content":"x"}],"tools":{}}"#,
                r#""tools" must be an array, found an object"#.into(),
            ),
        ] {
            assert_eq!(parse(line), Err(reason));
        }
    }

    #[test]
    fn broken_bytes_and_json_are_explained() {
        assert_eq!(
            fields::parse_json(b"{\"text\":\"\xff\"}"),
            Err("not UTF-8: byte 0xff at column 10".to_owned())
        );
        assert_eq!(
            parse(r#"{"text":"#),
            Err("invalid JSON (EOF while parsing a value at line 1 column 8); \
                 every line must be one whole JSON object"
                .to_owned())
        );
        assert!(parse(&"[".repeat(200)).unwrap_err().contains("recursion limit exceeded"));
    }

    #[test]
    fn many_and_long_keys_are_cut_in_the_message() {
        let keys: Vec<_> = (0..9).map(|i| format!("\"{}{i}\":0", "k".repeat(60))).collect();
        let value: Value = serde_json::from_str(&format!("{{{}}}", keys.join(","))).unwrap();
        let Value::Object(keys) = value else { unreachable!() };
        let shown = format!("\"{}\"", "k".repeat(40));
        assert_eq!(found_keys(&keys), format!("found keys {}, …", vec![shown; 8].join(", ")));
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = fields::parse_json(&bytes).and_then(Row::from_json);
        }

        #[test]
        fn no_json_can_make_it_panic(value in arbitrary_json()) {
            let _ = parse(&value.to_string());
        }

        #[test]
        fn every_text_survives(text in "\\PC{0,40}") {
            prop_assert_eq!(parse(&json!({"text": &text}).to_string()), Ok(Row::Text(text)));
        }
    }

    /// JSON made of the words that rows are made of.
    fn arbitrary_json() -> impl Strategy<Value = Value> {
        let word = || {
            prop::sample::select(vec![
                "text",
                "prompt",
                "completion",
                "messages",
                "role",
                "content",
                "conversations",
                "from",
                "value",
                "instruction",
                "output",
                "history",
                "tools",
                "function_call",
                "x",
            ])
        };
        let leaf =
            prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), word().prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((word(), inner), 0..4).prop_map(|pairs| pairs
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect()),
            ]
        })
    }
}
