//! `Tokenizer`.

use efficientai_toolkit::{Error, Result, data};
use pyo3::prelude::*;
use serde_json::Value;

use crate::enter::enter;

/// Turns text into token ids and back.
#[pyclass(frozen, module = "efficientai_toolkit._core.models")]
pub(crate) struct Tokenizer {
    inner: data::Tokenizer,
}

impl Tokenizer {
    pub(crate) fn new(inner: data::Tokenizer) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &data::Tokenizer {
        &self.inner
    }
}

#[pymethods]
impl Tokenizer {
    /// Number of tokens.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    /// Tokens that end a text.
    #[getter]
    fn eos_token_ids(&self) -> Vec<u32> {
        self.inner.eos_ids().to_vec()
    }

    /// Whether `apply_chat_template` works.
    #[getter]
    fn has_chat_template(&self) -> bool {
        self.inner.chat_template().is_some()
    }

    /// Token ids of a text.
    #[pyo3(signature = (text, add_special_tokens=true))]
    fn encode(&self, py: Python<'_>, text: &str, add_special_tokens: bool) -> PyResult<Vec<u32>> {
        enter(py, || self.inner.encode(text, add_special_tokens))
    }

    /// Text of token ids.
    #[pyo3(signature = (ids, skip_special_tokens=true))]
    fn decode(&self, py: Python<'_>, ids: Vec<u32>, skip_special_tokens: bool) -> PyResult<String> {
        enter(py, || self.inner.decode(&ids, skip_special_tokens))
    }

    /// A conversation as the model expects it; `messages` and `tools` are JSON lists.
    #[pyo3(signature = (messages, tools=None, add_generation_prompt=true))]
    fn apply_chat_template(
        &self,
        py: Python<'_>,
        messages: &str,
        tools: Option<&str>,
        add_generation_prompt: bool,
    ) -> PyResult<String> {
        let parse = |name: &str, text: &str| -> Result<Value> {
            serde_json::from_str(text).map_err(|error| Error::Config(format!("{name}: {error}")))
        };
        enter(py, || {
            let template = self.inner.chat_template().ok_or_else(|| {
                Error::ModelLoading(
                    "the tokenizer has no chat template: give the prompt as plain text".into(),
                )
            })?;
            let messages = parse("messages", messages)?;
            let list = messages.as_array().ok_or_else(|| Error::Config("messages is not a list".into()))?;
            let tools = tools.map(|text| parse("tools", text)).transpose()?;
            template.render(list, tools.as_ref(), add_generation_prompt)
        })
    }
}
