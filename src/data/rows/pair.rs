//! Rows of two answers to one prompt, of which one is preferred: `chosen` and `rejected`.
//!
//! | beside `chosen` and `rejected`               | prompt                                                         |
//! |----------------------------------------------|----------------------------------------------------------------|
//! | `prompt`, optionally `tools`                 | a question, or messages                                        |
//! | `conversations`, optionally `system`, `tools`| the messages ([`ShareGPT`](super::sharegpt))                   |
//! | `instruction`, optionally more               | the instruction ([Alpaca](super::alpaca))                      |
//! | nothing                                      | what both begin with; of texts, words as they are              |
//!
//! An answer is a text, a message or a list of messages, in the words of chat templates or of `ShareGPT`. Where both
//! lists begin with the prompt, or a list stands beside a `prompt` that is a text, they are whole conversations.

use serde_json::{Map, Value, json};

use super::alpaca::Instruction;
use super::fields::{found, name_of};
use super::messages::tools;
use super::sharegpt;

/// The keys of the answers.
pub(in crate::data) const SIDES: [&str; 2] = ["chosen", "rejected"];

/// Two answers to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// What both answer.
    pub prompt: Prompt,
    /// The preferred answer, and the other one.
    pub answers: [Answer; 2],
}

/// What the model is given.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// The beginning of both texts, in which no template has a part.
    Beginning(String),
    /// A question.
    Question(String),
    /// An instruction, whose output is empty.
    Instruction(Instruction),
    /// A conversation.
    Chat {
        /// Messages for the template.
        messages: Vec<Value>,
        /// JSON schemas of the tools the assistant may call.
        tools: Option<Value>,
    },
}

/// What the model might say.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A text.
    Text(String),
    /// Messages, of which the assistant says the first.
    Messages(Vec<Value>),
}

impl Answer {
    /// As messages for a template.
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
                sharegpt::turns(key, Value::Array(vec![message])).map(Self::Messages)
            }
            messages @ Value::Array(_) => sharegpt::turns(key, messages).map(Self::Messages),
            other => Err(format!(
                r#""{key}" must be a text, a message or a list of messages, found {}"#,
                name_of(&other)
            )),
        }
    }
}

impl Pair {
    /// Takes the keys of a row that has one of the [`SIDES`]; the error is the reason alone.
    pub(in crate::data) fn parse(keys: &mut Map<String, Value>) -> Result<Self, String> {
        let mut side = |key: &str| match keys.remove(key) {
            None | Some(Value::Null) => {
                let other = if key == SIDES[0] { SIDES[1] } else { SIDES[0] };
                Err(format!(r#"has "{other}" but no "{key}" ({})"#, found(keys)))
            }
            Some(value) => Answer::parse(key, value),
        };
        let answers = [side(SIDES[0])?, side(SIDES[1])?];
        if answers[0] == answers[1] {
            return Err(r#""chosen" and "rejected" are the same, so neither can be preferred"#.to_owned());
        }
        let tools = tools(keys.remove("tools"))?;
        let prompt = match keys.remove("prompt") {
            None | Some(Value::Null) if keys.contains_key("conversations") => {
                Some(Prompt::Chat { messages: sharegpt::messages(keys)?, tools: tools.clone() })
            }
            None | Some(Value::Null) if keys.contains_key("instruction") => {
                keys.insert("output".to_owned(), Value::String(String::new()));
                Some(Prompt::Instruction(Instruction::parse(keys)?))
            }
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(Prompt::Question(text)),
            Some(messages @ Value::Array(_)) => {
                Some(Prompt::Chat { messages: sharegpt::turns("prompt", messages)?, tools: tools.clone() })
            }
            Some(other) => {
                return Err(format!(
                    r#""prompt" must be a text or a list of messages, found {}"#,
                    name_of(&other)
                ));
            }
        };
        match (prompt, answers) {
            (None, [Answer::Text(chosen), Answer::Text(rejected)]) => Self::of_texts(&chosen, &rejected),
            (Some(prompt), answers @ [Answer::Text(_), Answer::Text(_)]) => Ok(Self { prompt, answers }),
            (prompt, answers) => Self::of_messages(prompt, answers.map(|answer| answer.messages()), tools),
        }
    }

    /// Two texts that begin alike. The word in which they part is no part of the prompt.
    fn of_texts(chosen: &str, rejected: &str) -> Result<Self, String> {
        let alike = chosen.bytes().zip(rejected.bytes()).take_while(|(a, b)| a == b).count();
        // White space before a word belongs to it, as in the tokens of most models.
        let word =
            |at: usize| chosen.is_char_boundary(at) && chosen[..at].ends_with(|c: char| !c.is_whitespace());
        let parts = |at: &usize| {
            let follows = |text: &str| {
                text.get(*at..).is_some_and(|rest| !rest.starts_with(|c: char| !c.is_whitespace()))
            };
            word(*at) && follows(chosen) && follows(rejected)
        };
        let Some(start) = (1..=alike).rev().find(parts) else {
            return Err(
                r#"has no "prompt", and "chosen" and "rejected" do not begin with the same words"#.to_owned()
            );
        };
        let rest = |text: &str| Answer::Text(text[start..].to_owned());
        Ok(Self {
            prompt: Prompt::Beginning(chosen[..start].to_owned()),
            answers: [rest(chosen), rest(rejected)],
        })
    }

    fn of_messages(
        prompt: Option<Prompt>,
        answers: [Vec<Value>; 2],
        tools: Option<Value>,
    ) -> Result<Self, String> {
        let alike = answers[0].iter().zip(&answers[1]).take_while(|(a, b)| a == b).count();
        let is_whole = |answer: &Vec<Value>| !said_by_assistant(answer.first());
        let (messages, [chosen, rejected]) = match prompt {
            // The text repeats a message of the conversations.
            Some(Prompt::Question(_)) | None if answers.iter().all(is_whole) => {
                (answers[0][..alike].to_vec(), answers.map(|answer| answer[alike..].to_vec()))
            }
            None => (Vec::new(), answers),
            Some(prompt) => {
                let prompt = prompt.messages();
                let repeat = answers.iter().all(|answer| answer.starts_with(&prompt));
                let skipped = if repeat { prompt.len() } else { 0 };
                (prompt, answers.map(|answer| answer[skipped..].to_vec()))
            }
        };
        if messages.is_empty() {
            return Err(
                r#""chosen" and "rejected" differ in their prompt: they have no first message in common"#
                    .to_owned(),
            );
        }
        for (key, answer) in SIDES.into_iter().zip([&chosen, &rejected]) {
            match answer.first() {
                None => return Err(format!(r#""{key}" holds no answer, only the prompt"#)),
                first if said_by_assistant(first) => {}
                Some(first) => {
                    return Err(format!(
                        r#""chosen" and "rejected" differ in their prompt: behind what they share, "{key}" goes on with a message of the role {}, expected an answer of the assistant"#,
                        first["role"]
                    ));
                }
            }
        }
        let prompt = Prompt::Chat { messages, tools };
        Ok(Self { prompt, answers: [chosen, rejected].map(Answer::Messages) })
    }
}

impl Prompt {
    /// As messages for a template.
    pub(in crate::data) fn messages(&self) -> Vec<Value> {
        match self {
            Self::Beginning(text) | Self::Question(text) => vec![json!({"role": "user", "content": text})],
            Self::Instruction(row) => {
                let mut messages = row.messages();
                messages.pop();
                messages
            }
            Self::Chat { messages, .. } => messages.clone(),
        }
    }
}

fn said_by_assistant(message: Option<&Value>) -> bool {
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
            assert_eq!(pair, Pair { prompt: Prompt::Beginning(prompt.to_owned()), answers });
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
        let prompt = Prompt::Chat { messages, tools: Some(json!([])) };
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
        assert_eq!(pair.prompt, Prompt::Chat { messages: start.to_vec(), tools: None });
        assert_eq!(pair.answers, [&chosen[3..], &rejected[3..]].map(|rest| Answer::Messages(rest.to_vec())));
    }
}
