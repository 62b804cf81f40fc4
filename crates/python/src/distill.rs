//! `_core.distill`: distillation.

use std::path::PathBuf;

use efficientai_toolkit::Result;
use efficientai_toolkit::distill::{self as engine, DistillConfig, TeacherSource};
use efficientai_toolkit::lora::TrainingConfig;
use pyo3::prelude::*;

use super::enter::enter_without_threads;
use super::json::{json, parse};
use super::lora::configured;
use super::models::{Model, Tokenizer};

/// Trains ``model`` in place towards the model in the folder ``teacher`` and returns a JSON report; ``observer`` receives each
/// event as JSON.
///
/// ``training`` is the JSON of a ``TrainingConfig`` with ``data`` and ``output`` filled in, ``config`` that of a
/// ``DistillConfig``.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "each is an object of its own in Python")]
pub(super) fn distill(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    teacher: PathBuf,
    teacher_tokenizer: &Bound<'_, Tokenizer>,
    training: &str,
    config: &str,
    observer: Py<PyAny>,
) -> PyResult<String> {
    let source = model.get().folder();
    let teacher = TeacherSource { folder: &teacher, tokenizer: teacher_tokenizer.get().inner() };
    configured(py, model, tokenizer, training, Some(observer), |model, tokenizer, training, caller| {
        let config: DistillConfig = parse(config)?;
        engine::run(model, tokenizer, source, (training, &config), teacher, caller)
    })
}

/// The default ``DistillConfig`` as JSON.
#[pyfunction]
pub(super) fn defaults(py: Python<'_>) -> PyResult<String> {
    enter_without_threads(py, || json(&DistillConfig::default()))
}

/// Checks the value of every setting of ``config``, the JSON of a ``DistillConfig``, and whether it goes with ``training``, that
/// of a ``TrainingConfig``.
#[pyfunction]
#[pyo3(signature = (config, training="{}"))]
pub(super) fn check(py: Python<'_>, config: &str, training: &str) -> PyResult<()> {
    let work =
        || -> Result<()> { parse::<DistillConfig>(config)?.validate(&parse::<TrainingConfig>(training)?) };
    enter_without_threads(py, work)
}
