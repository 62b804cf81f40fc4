//! Contrastive fine-tuning.

use efficientai_toolkit::clip::{self, ClipConfig};
use pyo3::prelude::*;

use super::model::Model;
use crate::enter::enter_without_threads;
use crate::json::{json, parse};
use crate::observer::observed;

/// Trains ``model`` in place and returns a JSON report; ``observer`` receives each event as JSON.
///
/// ``config`` is the JSON of a ``ClipConfig`` with ``data`` and ``output`` filled in.
#[pyfunction]
pub(crate) fn train(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    config: &str,
    observer: Py<PyAny>,
) -> PyResult<String> {
    let model = model.get();
    observed(py, Some(observer), |caller| {
        let config: ClipConfig = parse(config)?;
        json(&clip::run(&mut *model.inner.lock()?, &model.processor, &model.folder, &config, caller)?)
    })
}

/// Checks a whole configuration against ``model`` and reads its data, without training; returns numbers of the data as
/// JSON.
///
/// ``config`` is the JSON of a ``ClipConfig`` with ``data`` filled in.
#[pyfunction]
pub(crate) fn validate(py: Python<'_>, model: &Bound<'_, Model>, config: &str) -> PyResult<String> {
    let model = model.get();
    observed(py, None, |_| {
        let config: ClipConfig = parse(config)?;
        json(&clip::validate(&mut *model.inner.lock()?, &model.processor, &config)?)
    })
}

/// Raises ``TrainingError`` where the output folder of a run is taken by another one, or holds none to resume.
///
/// ``config`` is the JSON of a ``ClipConfig`` with ``output`` filled in.
#[pyfunction]
pub(crate) fn check_output(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || clip::check_output(&parse(config)?))
}

/// The default ``ClipConfig`` as JSON.
#[pyfunction]
pub(crate) fn defaults(py: Python<'_>) -> PyResult<String> {
    enter_without_threads(py, || json(&ClipConfig::default()))
}

/// Checks the value of every setting of ``config``, the JSON of a ``ClipConfig``.
#[pyfunction]
pub(crate) fn check(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || parse::<ClipConfig>(config)?.validate())
}
