//! Renderings recorded from the real renderer, for tests without Python. To record those of new tests:
//!
//! ```text
//! RECORD_CHAT_TEMPLATES=.venv/bin/python cargo test --release -p efficientai_toolkit --lib data::
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::process::RendererProcess;
use super::renderer::{Rendered, Renderer, Request};
use crate::Error;

const FILE: &str = "src/data/chat/recorded.json";
/// The records, read before they are added to.
static RECORDS: Mutex<Option<Vec<Record>>> = Mutex::new(None);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    question: Value,
    answer: Vec<Rendered>,
}

#[derive(Debug)]
struct Recorded;

/// A renderer that knows the recorded conversations.
pub(in crate::data) fn renderer() -> Arc<dyn Renderer> {
    Arc::new(Recorded)
}

/// The template `source` alone.
pub(in crate::data) fn sources(source: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(super::template::DEFAULT.to_owned(), source.to_owned())])
}

impl Renderer for Recorded {
    fn render(&self, request: &Request<'_>) -> Result<Vec<Vec<Rendered>>, (usize, Error)> {
        let mut guard = RECORDS.lock().unwrap_or_else(PoisonError::into_inner);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
        let records = guard.get_or_insert_with(|| {
            fs::read(&path).map_or_else(|_| Vec::new(), |bytes| serde_json::from_slice(&bytes).unwrap())
        });
        let question = |index: usize| {
            json!({"templates": request.templates, "variables": request.variables,
                   "conversation": request.conversations[index]})
        };
        let find = |records: &[Record], question: &Value| {
            records.iter().find(|record| record.question == *question).map(|record| record.answer.clone())
        };
        let questions: Vec<Value> = (0..request.conversations.len()).map(question).collect();
        let is_new = questions.iter().any(|question| find(records, question).is_none());
        if let Ok(python) = std::env::var("RECORD_CHAT_TEMPLATES")
            && is_new
        {
            let command = [&python, "-m", "efficientai_toolkit._chat_templates"].map(str::to_owned).to_vec();
            let process = RendererProcess::new(command, vec![("PYTHONPATH".to_owned(), "python".to_owned())]);
            let answers = process.render(request)?;
            for (question, answer) in questions.iter().zip(answers) {
                if find(records, question).is_none() {
                    records.push(Record { question: question.clone(), answer });
                }
            }
            records.sort_by_cached_key(|record| record.question.to_string());
            fs::write(&path, serde_json::to_string_pretty(records).unwrap() + "\n").unwrap();
        }
        let answer =
            |question| find(records, question).unwrap_or_else(|| panic!("{question} is not recorded"));
        Ok(questions.iter().map(answer).collect())
    }
}
