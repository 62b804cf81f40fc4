//! `_core.prune`: pruning.

use efficientai_toolkit::prune::{self as engine, PruneConfig};
use pyo3::prelude::*;

use super::enter::enter_without_threads;
use super::json::{json, parse};
use super::models::{Model, Tokenizer};
use super::observer::observed;

/// Prunes ``model`` in place, saves it, and returns a JSON report; ``observer`` receives each event as JSON.
///
/// ``config`` is the JSON of a ``PruneConfig`` with ``output`` filled in.
#[pyfunction]
pub(super) fn prune(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
    observer: Py<PyAny>,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, Some(observer), |caller| {
        let config: PruneConfig = parse(config)?;
        let source = model.folder();
        json(&model.change_adapters(|model| engine::run(model, tokenizer, source, &config, caller))?)
    })
}

/// Checks a whole configuration against ``model`` and reads its calibration text, without pruning; returns counts as
/// JSON.
#[pyfunction]
pub(super) fn validate(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, None, |_| {
        let config: PruneConfig = parse(config)?;
        let source = model.folder();
        json(&model.change_adapters(|model| engine::validate(model, tokenizer, source, &config))?)
    })
}

/// Raises ``TrainingError`` where the output folder of a run is taken by another one, or holds none to resume.
///
/// ``config`` is the JSON of a ``PruneConfig`` with ``output`` filled in.
#[pyfunction]
pub(super) fn check_output(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || engine::check_output(&parse(config)?))
}

/// The default ``PruneConfig`` as JSON.
#[pyfunction]
pub(super) fn defaults(py: Python<'_>) -> PyResult<String> {
    enter_without_threads(py, || json(&PruneConfig::default()))
}

/// Checks the value of every setting of ``config``, the JSON of a ``PruneConfig``.
#[pyfunction]
pub(super) fn check(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || parse::<PruneConfig>(config)?.validate())
}
