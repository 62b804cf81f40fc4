//! `Tokenizer`.

use efficientai_toolkit::{Error, data};
use pyo3::inspect::PyStaticExpr;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict as _, PyDict};
use pyo3::{type_hint_identifier, type_hint_subscript};
use serde_json::Value;

use crate::arguments::{Dictionaries, Text, Texts, TokenIds, to_json};
use crate::enter::enter;
use crate::error::config_error;

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

/// Numbers for each token of one text, or of several.
#[derive(IntoPyObject)]
enum Tokens {
    One(Vec<u32>),
    Several(Vec<Vec<u32>>),
}

/// What `transformers` calls a `BatchEncoding`; in Python a dictionary.
pub(crate) struct Encoding {
    input_ids: Tokens,
    attention_mask: Tokens,
}

impl<'py> IntoPyObject<'py> for Encoding {
    type Target = PyDict;
    type Output = Bound<'py, PyDict>;
    type Error = PyErr;

    const OUTPUT_TYPE: PyStaticExpr = type_hint_subscript!(
        type_hint_identifier!("builtins", "dict"),
        type_hint_identifier!("builtins", "str"),
        type_hint_identifier!("typing", "Any")
    );

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        [("input_ids", self.input_ids), ("attention_mask", self.attention_mask)].into_py_dict(py)
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

    /// The first of the tokens that end a text.
    #[getter]
    fn eos_token_id(&self) -> Option<u32> {
        self.inner.eos_ids().first().copied()
    }

    /// The token that begins a text.
    #[getter]
    fn bos_token_id(&self) -> Option<u32> {
        self.inner.bos_id()
    }

    /// The token that fills up short rows.
    #[getter]
    fn pad_token_id(&self) -> Option<u32> {
        self.inner.pad_token_id()
    }

    /// Whether `apply_chat_template` works.
    #[getter]
    fn has_chat_template(&self) -> bool {
        self.inner.chat_template().is_some()
    }

    /// Token ids of a text, as ``input_ids`` of a dictionary, with an ``attention_mask`` of ones; of several texts a list
    /// of each, without padding.
    #[pyo3(signature = (text, add_special_tokens=true))]
    fn __call__(&self, py: Python<'_>, text: Texts, add_special_tokens: bool) -> PyResult<Encoding> {
        let encode = |Text(text): &Text| self.inner.encode(text, add_special_tokens);
        let ones = |ids: &Vec<u32>| vec![1; ids.len()];
        enter(py, || match &text {
            Texts::One(text) => {
                let ids = encode(text)?;
                Ok(Encoding { attention_mask: Tokens::One(ones(&ids)), input_ids: Tokens::One(ids) })
            }
            Texts::Several(texts) => {
                let ids = texts.iter().map(encode).collect::<Result<Vec<_>, Error>>()?;
                let mask = ids.iter().map(ones).collect();
                Ok(Encoding { attention_mask: Tokens::Several(mask), input_ids: Tokens::Several(ids) })
            }
        })
    }

    /// Token ids of a text.
    #[pyo3(signature = (text, add_special_tokens=true))]
    fn encode(&self, py: Python<'_>, text: Text, add_special_tokens: bool) -> PyResult<Vec<u32>> {
        enter(py, || self.inner.encode(&text.0, add_special_tokens))
    }

    /// Text of token ids; ids that no token has are skipped.
    #[pyo3(signature = (ids, skip_special_tokens=true))]
    fn decode(&self, py: Python<'_>, ids: TokenIds, skip_special_tokens: bool) -> PyResult<String> {
        enter(py, || self.inner.decode(&ids.0, skip_special_tokens))
    }

    /// A conversation as the model expects it.
    ///
    /// ``messages`` are such as ``[{"role": "user", "content": "…"}]``, ``tools`` the JSON schemas of functions that the
    /// model may call. With ``add_generation_prompt`` the text ends with the beginning of an answer. ``tokenize`` is
    /// ``False``: pass the text to ``encode`` with ``add_special_tokens=False``. Further arguments are options of the
    /// chat template, such as ``enable_thinking=False``.
    #[pyo3(signature = (messages, tools=None, add_generation_prompt=true, *, tokenize=false, **chat_template_kwargs: "object"))]
    fn apply_chat_template<'py>(
        &self,
        py: Python<'py>,
        messages: Dictionaries<'py>,
        tools: Option<Dictionaries<'py>>,
        add_generation_prompt: bool,
        tokenize: bool,
        chat_template_kwargs: Option<Bound<'py, PyDict>>,
    ) -> PyResult<String> {
        if tokenize {
            let message = "tokenize is True, but this returns text; pass that to \
                           tokenizer.encode(text, add_special_tokens=False)";
            return Err(config_error(message.to_owned()));
        }
        let messages = messages.read("messages")?;
        let tools = tools.map(|tools| tools.read("tools").map(Value::Array)).transpose()?;
        let options = match &chat_template_kwargs {
            Some(options) => to_json(options, "chat_template_kwargs")?,
            None => Value::Null,
        };
        enter(py, || {
            let template = self.inner.chat_template().ok_or_else(|| {
                Error::ModelLoading(
                    "the tokenizer has no chat template: give the prompt as plain text".into(),
                )
            })?;
            let mut template = template.clone();
            if let Value::Object(options) = &options {
                template.add_options(options)?;
            }
            template.render(&messages, tools.as_ref(), add_generation_prompt)
        })
    }

    fn __len__(&self) -> usize {
        self.inner.vocab_size()
    }

    fn __repr__(&self) -> String {
        let id = |id: Option<u32>| id.map_or_else(|| "None".to_owned(), |id| id.to_string());
        format!(
            "Tokenizer(vocab_size={}, bos_token_id={}, eos_token_id={}, pad_token_id={}, has_chat_template={})",
            self.vocab_size(),
            id(self.bos_token_id()),
            id(self.eos_token_id()),
            id(self.pad_token_id()),
            if self.has_chat_template() { "True" } else { "False" },
        )
    }
}
