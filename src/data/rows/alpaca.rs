//! Instructions in the schema of [Alpaca](https://github.com/tatsu-lab/stanford_alpaca).
//!
//! | key           | value                                                       |
//! |---------------|-------------------------------------------------------------|
//! | `instruction` | the instruction                                             |
//! | `output`      | the expected answer                                         |
//! | `input`       | context of the instruction; may be empty, null or missing   |
//! | `system`      | the system message; likewise                                |
//! | `history`     | previous turns, pairs `[question, answer]`; likewise        |

use serde_json::{Map, Value, json};

use super::fields::{parse_nested, take_string, type_name};

/// An instruction and its answer; optional fields are empty if missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instruction {
    /// The instruction.
    pub instruction: String,
    /// Context of the instruction.
    pub input: String,
    /// The expected answer.
    pub output: String,
    /// The system message.
    pub system: String,
    /// Previous turns, as `[question, answer]`.
    pub history: Vec<[String; 2]>,
}

impl Instruction {
    /// Parses the object `keys`.
    ///
    /// # Errors
    /// The reason, without the location of the row.
    pub(super) fn parse(keys: &mut Map<String, Value>) -> Result<Self, String> {
        let mut optional = |key: &str| match keys.get(key) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(_) => take_string(keys, key),
        };
        let (input, system) = (optional("input")?, optional("system")?);
        Ok(Self {
            instruction: take_string(keys, "instruction")?,
            input,
            output: take_string(keys, "output")?,
            system,
            history: parse_history(keys.remove("history").unwrap_or_default())?,
        })
    }

    /// The conversation for a chat template; the input follows the instruction on a new line.
    pub(in crate::data) fn messages(&self) -> Vec<Value> {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let mut messages = Vec::new();
        if !self.system.is_empty() {
            messages.push(message("system", &self.system));
        }
        for [question, answer] in &self.history {
            messages.extend([message("user", question), message("assistant", answer)]);
        }
        let user = if self.input.is_empty() {
            self.instruction.clone()
        } else {
            format!("{}\n{}", self.instruction, self.input)
        };
        messages.extend([message("user", &user), message("assistant", &self.output)]);
        messages
    }

    /// Alpaca's prompt, for models without a chat template.
    pub(in crate::data) fn prompt(&self) -> String {
        let (has_input, input) = if self.input.is_empty() {
            ("", String::new())
        } else {
            (
                ", paired with an input that provides further context",
                format!("### Input:\n{}\n\n", self.input),
            )
        };
        let system = if self.system.is_empty() {
            format!(
                "Below is an instruction that describes a task{has_input}. \
                 Write a response that appropriately completes the request."
            )
        } else {
            self.system.clone()
        };
        format!("{system}\n\n### Instruction:\n{}\n\n{input}### Response:\n", self.instruction)
    }
}

fn parse_history(value: Value) -> Result<Vec<[String; 2]>, String> {
    let pairs = match parse_nested("history", value)? {
        Value::Null => return Ok(Vec::new()),
        Value::Array(pairs) => pairs,
        other => {
            return Err(format!(
                r#""history" must be an array of [question, answer], found {}"#,
                type_name(&other)
            ));
        }
    };
    let pair = |(index, pair): (usize, Value)| match pair.as_array().map(Vec::as_slice) {
        Some([Value::String(question), Value::String(answer)]) => Ok([question.clone(), answer.clone()]),
        _ => Err(format!("history[{index}] must be [question, answer], two strings")),
    };
    pairs.into_iter().enumerate().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Instruction, String> {
        let Value::Object(mut keys) = value else { unreachable!() };
        Instruction::parse(&mut keys)
    }

    #[test]
    fn everything_becomes_a_conversation() {
        let row = parse(json!({"instruction": "add", "input": "1 2", "output": "3", "system": "be brief",
            "history": [["hi", "hello"]]}))
        .unwrap();
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        assert_eq!(
            row.messages(),
            [
                message("system", "be brief"),
                message("user", "hi"),
                message("assistant", "hello"),
                message("user", "add\n1 2"),
                message("assistant", "3")
            ]
        );
    }

    #[test]
    fn what_is_missing_is_empty() {
        let bare = parse(json!({"instruction": "add", "output": "3"})).unwrap();
        let nulls =
            json!({"instruction": "add", "output": "3", "input": null, "system": null, "history": null});
        assert_eq!(parse(nulls).unwrap(), bare);
        assert_eq!(bare.messages()[0], json!({"role": "user", "content": "add"}));
        assert_eq!(
            bare.prompt(),
            "Below is an instruction that describes a task. Write a response that appropriately completes the \
             request.\n\n### Instruction:\nadd\n\n### Response:\n"
        );
    }

    #[test]
    fn a_base_model_gets_the_words_of_alpaca() {
        let row = Instruction { instruction: "add".into(), input: "1 2".into(), ..Instruction::default() };
        assert_eq!(
            row.prompt(),
            "Below is an instruction that describes a task, paired with an input that provides further context. \
             Write a response that appropriately completes the request.\n\n### Instruction:\nadd\n\n\
             ### Input:\n1 2\n\n### Response:\n"
        );
        assert!(Instruction { system: "Add.".into(), ..row }.prompt().starts_with("Add.\n\n### Instruction"));
    }

    #[test]
    fn errors_name_the_key() {
        for (row, reason) in [
            (json!({"instruction": 1, "output": ""}), r#""instruction" must be a string, found a number"#),
            (json!({"instruction": "", "output": null}), r#""output" must be a string, found null"#),
            (
                json!({"instruction": "", "output": "", "input": []}),
                r#""input" must be a string, found an array"#,
            ),
            (
                json!({"instruction": "", "output": "", "history": {}}),
                r#""history" must be an array of [question, answer], found an object"#,
            ),
            (
                json!({"instruction": "", "output": "", "history": [["a", "b"], ["a"]]}),
                "history[1] must be [question, answer], two strings",
            ),
        ] {
            assert_eq!(parse(row), Err(reason.to_owned()));
        }
    }
}
