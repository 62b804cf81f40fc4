//! `_core.quantize`: post-training quantization.

use efficientai_toolkit::quantize::{self as engine, QuantizeConfig};
use pyo3::prelude::*;

use super::enter::enter_without_threads;
use super::json::{json, parse};
use super::models::{Model, Tokenizer};
use super::observer::observed;

/// Quantizes ``model`` in place, saves it, and returns a JSON report; ``observer`` receives each event as JSON.
///
/// ``config`` is the JSON of a ``QuantizeConfig`` with ``output`` filled in.
#[pyfunction]
pub(super) fn quantize(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
    observer: Py<PyAny>,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, Some(observer), |caller| {
        let config: QuantizeConfig = parse(config)?;
        let source = model.folder();
        json(&model.change_adapters(|model| engine::run(model, tokenizer, source, &config, caller))?)
    })
}

/// Checks a whole configuration against ``model`` and reads its calibration text, without quantizing; returns counts as
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
        let config: QuantizeConfig = parse(config)?;
        json(&model.change_adapters(|model| engine::validate(model, tokenizer, &config))?)
    })
}

/// Raises ``TrainingError`` where the output folder of a run is taken by another one, or holds none to resume.
///
/// ``config`` is the JSON of a ``QuantizeConfig`` with ``output`` filled in.
#[pyfunction]
pub(super) fn check_output(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || engine::check_output(&parse(config)?))
}

/// The default ``QuantizeConfig`` as JSON.
#[pyfunction]
pub(super) fn defaults(py: Python<'_>) -> PyResult<String> {
    enter_without_threads(py, || json(&QuantizeConfig::default()))
}

/// Checks the value of every setting of ``config``, the JSON of a ``QuantizeConfig``.
#[pyfunction]
pub(super) fn check(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || parse::<QuantizeConfig>(config)?.validate())
}
