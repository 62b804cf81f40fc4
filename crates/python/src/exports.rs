//! `_core.exports`: models in the formats of other programs.

use std::path::PathBuf;

use efficientai_toolkit::exports::gguf::{self, Card, GgufConfig};
use pyo3::prelude::*;

use super::enter::{enter, enter_without_threads};
use super::json::{json, parse};
use super::models::{Model, Tokenizer};
use super::observer::observed;

/// Writes ``model``, with its adapters in use merged, as a GGUF file and returns a JSON report; ``observer`` receives each
/// event as JSON.
///
/// ``settings`` is the JSON of a ``GgufConfig``, ``card`` that of a ``Card``.
#[pyfunction]
pub(super) fn write_gguf(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    settings: &str,
    card: &str,
    path: PathBuf,
    observer: Py<PyAny>,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, Some(observer), |caller| {
        let (settings, card): (GgufConfig, Card) = (parse(settings)?, parse(card)?);
        let mut inner = model.lock_unpacked()?;
        json(&gguf::write(inner.as_mut(), model.json(), tokenizer, &settings, &card, &path, caller)?)
    })
}

/// Reads a GGUF file back and returns its largest relative difference to ``model``.
#[pyfunction]
pub(super) fn verify_gguf(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    path: PathBuf,
    observer: Py<PyAny>,
) -> PyResult<f64> {
    let model = model.get();
    observed(py, Some(observer), |caller| {
        gguf::verify(model.lock_unpacked()?.as_mut(), model.json(), &path, caller)
    })
}

/// Writes the adapter in use on ``model`` as a GGUF adapter and returns a JSON report; arguments as of ``write_gguf``.
#[pyfunction]
pub(super) fn write_gguf_adapter(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    settings: &str,
    card: &str,
    path: PathBuf,
    observer: Py<PyAny>,
) -> PyResult<String> {
    let model = model.get();
    observed(py, Some(observer), |caller| {
        let (settings, card): (GgufConfig, Card) = (parse(settings)?, parse(card)?);
        json(&gguf::write_adapter(
            model.lock_unpacked()?.as_mut(),
            model.json(),
            &settings,
            &card,
            &path,
            caller,
        )?)
    })
}

/// Reads a GGUF adapter back and returns its largest relative difference to the one in use on ``model``.
#[pyfunction]
pub(super) fn verify_gguf_adapter(py: Python<'_>, model: &Bound<'_, Model>, path: PathBuf) -> PyResult<f64> {
    let model = model.get();
    enter(py, || gguf::verify_adapter(model.lock_unpacked()?.as_mut(), model.json(), &path))
}

/// What a GGUF file tells of its model, the JSON of a ``Card``.
#[pyfunction]
pub(super) fn read_gguf_card(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    enter_without_threads(py, || json(&gguf::read_card(&path)?))
}

/// The default ``GgufConfig`` as JSON.
#[pyfunction]
pub(super) fn defaults(py: Python<'_>) -> PyResult<String> {
    enter_without_threads(py, || json(&GgufConfig::default()))
}
