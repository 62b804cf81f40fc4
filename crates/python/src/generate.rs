//! `_core.generate`: generating text.

use efficientai_toolkit::Error;
use efficientai_toolkit::generate::{GenerateConfig, run};
use pyo3::prelude::*;

use super::arguments::Prompt;
use super::enter::enter_without_threads;
use super::json::{json, parse};
use super::models::{Model, Tokenizer};
use super::observer::observed;

/// Continues ``prompt``, a text or token ids, and returns a JSON report; ``on_text`` receives each piece of text.
///
/// ``config`` is the JSON of a ``GenerateConfig``. ``add_special_tokens`` is for plain text; a
/// rendered chat template holds its own.
#[pyfunction]
#[pyo3(signature = (model, tokenizer, prompt, config, on_text=None, add_special_tokens=true))]
pub(super) fn generate(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    prompt: Prompt,
    config: &str,
    on_text: Option<Py<PyAny>>,
    add_special_tokens: bool,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, on_text, |caller| {
        let config: GenerateConfig = parse(config)?;
        let accuracy = config.accuracy.map_or_else(|| model.accuracy(), |accuracy| Ok(Some(accuracy)))?;
        let model = model.lock()?;
        let ids = match prompt {
            Prompt::Text(text) if add_special_tokens => tokenizer.encode_prompt(&text)?,
            Prompt::Text(text) => tokenizer.encode(&text, false)?,
            Prompt::Ids(ids) => {
                let vocab = model.vocab_size().unsigned_abs();
                if let Some(id) = ids.iter().find(|&&id| id >= vocab) {
                    return Err(Error::Config(format!("ids hold {id}, expected 0 to {}", vocab - 1)));
                }
                ids
            }
        };
        let mut on_text = |text: &str| if text.is_empty() { caller.poll() } else { caller.call(text) };
        let report = run(model.as_ref(), tokenizer, &ids, &config, accuracy, &mut on_text)?;
        json(&report)
    })
}

/// The default ``GenerateConfig`` as JSON.
#[pyfunction]
pub(super) fn defaults(py: Python<'_>) -> PyResult<String> {
    enter_without_threads(py, || json(&GenerateConfig::default()))
}

/// Checks the value of every setting of ``config``, the JSON of a ``GenerateConfig``.
#[pyfunction]
pub(super) fn check(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || parse::<GenerateConfig>(config)?.validate())
}
