//! Column names: `prompt=question` reads the prompt from the column `question`.

use serde_json::{Map, Value};

use super::fields::found_keys;
use crate::{Error, Result};

/// The keys of a row, and whether they are optional.
const KEYS: [(&str, bool); 13] = [
    ("text", false),
    ("prompt", false),
    ("completion", false),
    ("messages", false),
    ("conversations", false),
    ("instruction", false),
    ("output", false),
    ("chosen", false),
    ("rejected", false),
    ("input", true),
    ("system", true),
    ("history", true),
    ("tools", true),
];

/// A mapping from keys of a row to columns of the file. If empty, every column is read under its own name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns(Vec<(&'static str, String)>);

impl Columns {
    /// Parses entries such as `prompt=question`.
    ///
    /// # Errors
    /// [`Error::Config`] with the invalid entry and what was expected.
    pub fn parse(entries: &[String]) -> Result<Self> {
        let mut columns: Vec<(&'static str, String)> = Vec::new();
        for entry in entries {
            let invalid = |reason: &str| Error::Config(format!("columns holds \"{entry}\", {reason}"));
            let Some((key, column)) = entry.split_once('=') else {
                return Err(invalid("expected entries such as prompt=question"));
            };
            let (key, column) = (key.trim(), column.trim());
            let Some((key, _)) = KEYS.iter().find(|(name, _)| *name == key) else {
                let names: Vec<_> = KEYS.iter().map(|(name, _)| *name).collect();
                return Err(invalid(&format!("but rows are made of {}", names.join(", "))));
            };
            if column.is_empty() || columns.iter().any(|(name, _)| name == key) {
                return Err(invalid("expected each name once, with a column"));
            }
            columns.push((*key, column.to_owned()));
        }
        Ok(Self(columns))
    }

    /// Whether the column `name` is read.
    pub(in crate::data) fn is_read(&self, name: &str) -> bool {
        if self.0.is_empty() {
            KEYS.iter().any(|(key, _)| *key == name)
        } else {
            self.0.iter().any(|(_, column)| column == name)
        }
    }

    /// Renames the columns of `row` to the keys they stand for and drops all others.
    ///
    /// # Errors
    /// The missing column, without the location of the row.
    pub(super) fn rename(&self, row: Value) -> Result<Value, String> {
        let Value::Object(keys) = row else { return Ok(row) };
        if self.0.is_empty() {
            return Ok(Value::Object(keys));
        }
        let mut renamed = Map::new();
        for (key, column) in &self.0 {
            match keys.get(column) {
                Some(value) => {
                    renamed.insert((*key).to_owned(), value.clone());
                }
                None if KEYS.contains(&(*key, true)) => {}
                None => {
                    return Err(format!(
                        "has no \"{column}\", which columns reads as {key} ({})",
                        found_keys(&keys)
                    ));
                }
            }
        }
        Ok(Value::Object(renamed))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn columns(entries: &[&str]) -> Result<Columns> {
        Columns::parse(&entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn only_named_columns_are_read() {
        let swapped = columns(&["prompt = completion", "completion=prompt", "tools=t"]).unwrap();
        let row = json!({"prompt": "a", "completion": "b", "text": "c"});
        assert_eq!(swapped.rename(row.clone()).unwrap(), json!({"prompt": "b", "completion": "a"}));
        assert_eq!(Columns::default().rename(row.clone()).unwrap(), row);
        assert!(swapped.is_read("t") && !swapped.is_read("text") && Columns::default().is_read("text"));
        assert_eq!(
            columns(&["text=body"]).unwrap().rename(row).unwrap_err(),
            "has no \"body\", which columns reads as text (found keys \"prompt\", \"completion\", \"text\")"
        );
    }

    #[test]
    fn wrong_entries_are_told_what_is_right() {
        for (entry, reason) in [
            ("question", "expected entries such as prompt=question"),
            (
                "answer=a",
                "but rows are made of text, prompt, completion, messages, conversations, instruction, output, chosen, rejected, input, system, history, tools",
            ),
            ("text=", "expected each name once, with a column"),
        ] {
            let error = columns(&[entry]).unwrap_err().to_string();
            assert_eq!(error, format!("columns holds \"{entry}\", {reason}"));
        }
        assert!(columns(&["text=a", "text=b"]).is_err());
    }
}
