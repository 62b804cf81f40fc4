//! `_core.subset`: data-set quantization.

use efficientai_toolkit::subset::{self as engine, SubsetConfig};
use pyo3::prelude::*;

use super::enter::enter_without_threads;
use super::json::{json, parse};
use super::models::{Model, Tokenizer};
use super::observer::observed;

/// Chooses rows that stand for all, stores them, and returns a JSON report; ``observer`` receives each event as JSON.
///
/// ``config`` is the JSON of a ``SubsetConfig`` with ``data`` and ``output`` filled in.
#[pyfunction]
pub(super) fn select(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
    observer: Py<PyAny>,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, Some(observer), |caller| {
        let config: SubsetConfig = parse(config)?;
        json(&engine::run(model.lock()?.as_ref(), tokenizer, &config, caller)?)
    })
}

/// Raises ``TrainingError`` where the output folder is taken by other rows or a run.
///
/// ``config`` is the JSON of a ``SubsetConfig`` with ``output`` filled in.
#[pyfunction]
pub(super) fn check_output(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || engine::check_output(&parse(config)?))
}

/// The default ``SubsetConfig`` as JSON.
#[pyfunction]
pub(super) fn defaults(py: Python<'_>) -> PyResult<String> {
    enter_without_threads(py, || json(&SubsetConfig::default()))
}

/// Checks the value of every setting of ``config``, the JSON of a ``SubsetConfig``.
#[pyfunction]
pub(super) fn check(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || parse::<SubsetConfig>(config)?.validate())
}
