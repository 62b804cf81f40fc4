//! `_core.lora`: fine-tuning.

use efficientai_toolkit::Result;
use efficientai_toolkit::lora::{self, AnalysisSettings, TrainingConfig};
use efficientai_toolkit::{data, models};
use pyo3::prelude::*;
use serde::Serialize;

use super::enter::enter_without_threads;
use super::json::{json, parse};
use super::models::{Model, Tokenizer};
use super::observer::{Caller, observed};

/// Trains ``model`` in place and returns a JSON report; ``observer`` receives each event as JSON.
///
/// ``config`` is the JSON of a ``TrainingConfig`` with ``data`` and ``output`` filled in.
#[pyfunction]
pub(super) fn train(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
    observer: Py<PyAny>,
) -> PyResult<String> {
    let source = model.get().folder();
    configured(py, model, tokenizer, config, Some(observer), |model, tokenizer, config, caller| {
        lora::run(model, tokenizer, source, config, caller)
    })
}

/// Checks a whole configuration against ``model`` and reads its data, without training; returns
/// statistics of each split as JSON.
///
/// ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in.
#[pyfunction]
pub(super) fn validate(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
) -> PyResult<String> {
    configured(py, model, tokenizer, config, None, |model, tokenizer, config, caller| {
        lora::validate(model, tokenizer, config, caller)
    })
}

/// Analyzes the data of ``config`` and the gradient of each layer that it adapts, without training; returns both as JSON.
///
/// ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in, ``probe`` that of ``batches``, whose mean
/// gradient is taken, and ``width``, the number of singular values.
#[pyfunction]
pub(super) fn analyze(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
    probe: &str,
) -> PyResult<String> {
    configured(py, model, tokenizer, config, None, |model, tokenizer, config, caller| {
        let probe: AnalysisSettings = parse(probe)?;
        lora::analyze(model, tokenizer, config, &probe, caller)
    })
}

/// Estimates what a run with this configuration takes of MLX's memory; returns a ``MemoryEstimate`` as JSON.
///
/// ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in.
#[pyfunction]
pub(super) fn estimate_memory(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
) -> PyResult<String> {
    configured(py, model, tokenizer, config, None, |model, tokenizer, config, caller| {
        lora::estimate_memory(model, tokenizer, config, caller)
    })
}

/// Raises ``TrainingError`` where the output folder of a run is taken by another one, or holds none to resume.
///
/// ``config`` is the JSON of a ``TrainingConfig`` with ``output`` filled in.
#[pyfunction]
pub(super) fn check_output(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || lora::check_output(&parse(config)?))
}

/// The default ``TrainingConfig`` as JSON.
#[pyfunction]
pub(super) fn defaults(py: Python<'_>) -> PyResult<String> {
    enter_without_threads(py, || json(&TrainingConfig::default()))
}

/// Checks the value of every setting of ``config``, the JSON of a ``TrainingConfig``.
#[pyfunction]
pub(super) fn check(py: Python<'_>, config: &str) -> PyResult<()> {
    enter_without_threads(py, || parse::<TrainingConfig>(config)?.validate())
}

/// Runs `work` with a parsed configuration on a model whose adapters it may change.
pub(super) fn configured<T: Serialize>(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
    observer: Option<Py<PyAny>>,
    work: impl FnOnce(&mut models::Model, &data::Tokenizer, &TrainingConfig, &mut Caller) -> Result<T> + Send,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, observer, |caller| {
        let config: TrainingConfig = parse(config)?;
        let options = config.chat_template_kwargs.clone().unwrap_or_default();
        let tokenizer = tokenizer.with_template_options(&options)?;
        json(&model.change_adapters(|model| work(model, &tokenizer, &config, caller))?)
    })
}
