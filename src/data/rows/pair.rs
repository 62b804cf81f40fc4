//! Preference pairs: a `chosen` and a `rejected` answer to one prompt.
//!
//! | besides `chosen` and `rejected`               | prompt                                                          |
//! |-----------------------------------------------|-----------------------------------------------------------------|
//! | `prompt`, optionally `tools`                  | a user message, or a list of messages                           |
//! | `conversations`, optionally `system`, `tools` | the messages ([`ShareGPT`](super::sharegpt))                    |
//! | `instruction`, optionally more                | the instruction ([Alpaca](super::alpaca))                       |
//! | nothing                                       | the common prefix of both answers: whole words of texts, or messages |
//!
//! An answer is a text, a message or a list of messages, in the schema of chat templates or of `ShareGPT`. Lists
//! that start with the prompt, or that accompany a `prompt` that is a text, are whole conversations.

use serde_json::{Map, Value, json};

use super::alpaca::Instruction;
use super::chat::Chat;
use super::fields::{found_keys, type_name};
use super::sharegpt;

/// Keys of the preferred and of the other answer.
pub(super) const ANSWER_KEYS: [&str; 2] = ["chosen", "rejected"];

/// Two answers to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The common prompt.
    pub prompt: Prompt,
    /// The chosen and the rejected answer.
    pub answers: [Answer; 2],
}

/// The prompt of a pair.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// The common prefix of two texts, used without a chat template.
    Prefix(String),
    /// The text of a user message.
    User(String),
    /// An instruction with an empty output.
    Instruction(Instruction),
    /// A conversation.
    Chat(Chat),
}

/// One answer of a pair.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Plain text.
    Text(String),
    /// Messages, the first of which is from the assistant.
    Messages(Vec<Value>),
}

impl Answer {
    /// Messages for a chat template.
    pub(in crate::data) fn messages(&self) -> Vec<Value> {
        match self {
            Self::Text(text) => vec![json!({"role": "assistant", "content": text})],
            Self::Messages(messages) => messages.clone(),
        }
    }

    fn parse(key: &str, value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(Self::Text(text)),
            message @ Value::Object(_) => {
                sharegpt::parse_turns(key, Value::Array(vec![message])).map(Self::Messages)
            }
            messages @ Value::Array(_) => sharegpt::parse_turns(key, messages).map(Self::Messages),
            other => Err(format!(
                r#""{key}" must be a text, a message or a list of messages, found {}"#,
                type_name(&other)
            )),
        }
    }
}

impl Pair {
    /// Parses an object with at least one of the [`ANSWER_KEYS`].
    ///
    /// # Errors
    /// The reason, without the location of the row.
    pub(super) fn parse(keys: &mut Map<String, Value>) -> Result<Self, String> {
        let mut answer = |key: &str| match keys.remove(key) {
            None | Some(Value::Null) => {
                let other = if key == ANSWER_KEYS[0] { ANSWER_KEYS[1] } else { ANSWER_KEYS[0] };
                Err(format!(r#"has "{other}" but no "{key}" ({})"#, found_keys(keys)))
            }
            Some(value) => Answer::parse(key, value),
        };
        let answers = [answer(ANSWER_KEYS[0])?, answer(ANSWER_KEYS[1])?];
        if answers[0] == answers[1] {
            return Err(r#""chosen" and "rejected" are the same, so neither can be preferred"#.to_owned());
        }
        let shared = Chat::parse(Vec::new(), keys)?;
        let chat = |messages| Prompt::Chat(Chat { messages, ..shared.clone() });
        let prompt = match keys.remove("prompt") {
            None | Some(Value::Null) if keys.contains_key("conversations") => {
                Some(chat(sharegpt::parse_conversations(keys)?))
            }
            None | Some(Value::Null) if keys.contains_key("instruction") => {
                keys.insert("output".to_owned(), Value::String(String::new()));
                Some(Prompt::Instruction(Instruction::parse(keys)?))
            }
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(Prompt::User(text)),
            Some(messages @ Value::Array(_)) => Some(chat(sharegpt::parse_turns("prompt", messages)?)),
            Some(other) => {
                return Err(format!(
                    r#""prompt" must be a text or a list of messages, found {}"#,
                    type_name(&other)
                ));
            }
        };
        match (prompt, answers) {
            (None, [Answer::Text(chosen), Answer::Text(rejected)]) => Self::from_texts(&chosen, &rejected),
            (Some(prompt), answers @ [Answer::Text(_), Answer::Text(_)]) => Ok(Self { prompt, answers }),
            (prompt, answers) => Self::from_messages(prompt, answers.map(|answer| answer.messages()), shared),
        }
    }

    /// Splits two texts into their common prefix and the answers. The word in which they first differ belongs to
    /// the answers.
    fn from_texts(chosen: &str, rejected: &str) -> Result<Self, String> {
        let common = chosen.bytes().zip(rejected.bytes()).take_while(|(a, b)| a == b).count();
        // Whitespace belongs to the word that follows it, as in the tokens of most models.
        let ends_a_word =
            |at: usize| chosen.is_char_boundary(at) && chosen[..at].ends_with(|c: char| !c.is_whitespace());
        let is_boundary = |at: &usize| {
            let no_word_continues = |text: &str| {
                text.get(*at..).is_some_and(|rest| !rest.starts_with(|c: char| !c.is_whitespace()))
            };
            ends_a_word(*at) && no_word_continues(chosen) && no_word_continues(rejected)
        };
        let Some(start) = (1..=common).rev().find(is_boundary) else {
            return Err(
                r#"has no "prompt", and "chosen" and "rejected" do not begin with the same words"#.to_owned()
            );
        };
        let rest = |text: &str| Answer::Text(text[start..].to_owned());
        Ok(Self {
            prompt: Prompt::Prefix(chosen[..start].to_owned()),
            answers: [rest(chosen), rest(rejected)],
        })
    }

    fn from_messages(prompt: Option<Prompt>, answers: [Vec<Value>; 2], shared: Chat) -> Result<Self, String> {
        let common = answers[0].iter().zip(&answers[1]).take_while(|(a, b)| a == b).count();
        let is_conversation = |answer: &Vec<Value>| !is_assistant(answer.first());
        let (messages, [chosen, rejected]) = match prompt {
            // The text repeats a message of the conversations.
            Some(Prompt::User(_)) | None if answers.iter().all(is_conversation) => {
                (answers[0][..common].to_vec(), answers.map(|answer| answer[common..].to_vec()))
            }
            None => (Vec::new(), answers),
            Some(prompt) => {
                let prompt = prompt.messages();
                let repeats_prompt = answers.iter().all(|answer| answer.starts_with(&prompt));
                let skipped = if repeats_prompt { prompt.len() } else { 0 };
                (prompt, answers.map(|answer| answer[skipped..].to_vec()))
            }
        };
        if messages.is_empty() {
            return Err(
                r#""chosen" and "rejected" differ in their prompt: they have no first message in common"#
                    .to_owned(),
            );
        }
        for (key, answer) in ANSWER_KEYS.into_iter().zip([&chosen, &rejected]) {
            match answer.first() {
                None => return Err(format!(r#""{key}" holds no answer, only the prompt"#)),
                first if is_assistant(first) => {}
                Some(first) => {
                    return Err(format!(
                        r#""chosen" and "rejected" differ in their prompt: behind what they share, "{key}" goes on with a message of the role {}, expected an answer of the assistant"#,
                        first["role"]
                    ));
                }
            }
        }
        let prompt = Prompt::Chat(Chat { messages, ..shared });
        Ok(Self { prompt, answers: [chosen, rejected].map(Answer::Messages) })
    }
}

impl Prompt {
    /// Messages for a chat template.
    pub(in crate::data) fn messages(&self) -> Vec<Value> {
        match self {
            Self::Prefix(text) | Self::User(text) => vec![json!({"role": "user", "content": text})],
            Self::Instruction(row) => {
                let mut messages = row.messages();
                messages.pop();
                messages
            }
            Self::Chat(chat) => chat.messages.clone(),
        }
    }
}

fn is_assistant(message: Option<&Value>) -> bool {
    message.is_some_and(|message| message["role"] == "assistant")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Pair, String> {
        let Value::Object(mut keys) = value else { panic!("no object") };
        Pair::parse(&mut keys)
    }

    fn texts(chosen: &str, rejected: &str) -> [Answer; 2] {
        [chosen, rejected].map(|text| Answer::Text(text.to_owned()))
    }

    #[test]
    fn texts_part_where_a_word_differs() {
        for (chosen, rejected, prompt) in [
            ("Q: a?\nA: the cat", "Q: a?\nA: the car", "Q: a?\nA: the"),
            ("é ö ü", "é ö û", "é ö"),
            ("one two", "one", "one"),
            ("one", "one two", "one"),
            ("a  b", "a  c", "a"),
        ] {
            let pair = parse(json!({"chosen": chosen, "rejected": rejected})).unwrap();
            let answers = texts(&chosen[prompt.len()..], &rejected[prompt.len()..]);
            assert_eq!(pair, Pair { prompt: Prompt::Prefix(prompt.to_owned()), answers });
        }
        for (chosen, rejected) in [("cat", "car"), ("", "a"), (" a", " b"), ("é", "è")] {
            let error = parse(json!({"chosen": chosen, "rejected": rejected})).unwrap_err();
            assert!(error.contains("do not begin with the same words"), "{error}");
        }
    }

    #[test]
    fn instructions_and_tools_stay_with_the_prompt() {
        let pair =
            parse(json!({"instruction": "add", "input": "1", "chosen": "2", "rejected": "3"})).unwrap();
        let instruction =
            Instruction { instruction: "add".into(), input: "1".into(), ..Instruction::default() };
        assert_eq!(pair, Pair { prompt: Prompt::Instruction(instruction), answers: texts("2", "3") });
        let asked = json!([{"from": "human", "value": "a"}]);
        let row =
            json!({"conversations": asked, "system": "s", "tools": "[]", "chosen": "b", "rejected": "c"});
        let messages =
            vec![json!({"role": "system", "content": "s"}), json!({"role": "user", "content": "a"})];
        let prompt = Prompt::Chat(Chat { messages, tools: Some(json!([])), ..Chat::default() });
        assert_eq!(parse(row), Ok(Pair { prompt, answers: texts("b", "c") }));
    }

    #[test]
    fn turns_behind_the_first_answer_belong_to_the_answers() {
        let said = |role: &str, content: &str| json!({"role": role, "content": content});
        let start = [said("user", "a"), said("assistant", "b"), said("user", "c")];
        let chosen =
            [&start[..], &[said("assistant", "d"), said("user", "e"), said("assistant", "f")]].concat();
        let rejected = [&start[..], &[said("assistant", "g")]].concat();
        let pair = parse(json!({"chosen": chosen, "rejected": rejected})).unwrap();
        assert_eq!(pair.prompt, Prompt::Chat(Chat { messages: start.to_vec(), ..Chat::default() }));
        assert_eq!(pair.answers, [&chosen[3..], &rejected[3..]].map(|rest| Answer::Messages(rest.to_vec())));
    }
}
