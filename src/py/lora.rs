//! Fine-tuning.

use pyo3::prelude::*;

use super::enter::enter;
use super::json::{json, parse};
use super::model::Model;
use super::observer::observed;
use super::tokenizer::Tokenizer;
use crate::Error;
use crate::generate::GenerateConfig;
use crate::lora::{TrainingConfig, run, validate};

/// Trains ``model`` in place and returns a JSON report; ``observer`` receives each event as JSON.
///
/// ``config`` is the JSON of a ``TrainingConfig`` with ``data`` and ``output`` filled in.
#[pyfunction]
pub(super) fn train_lora(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
    observer: Py<PyAny>,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, Some(observer), |caller| {
        let config: TrainingConfig = parse(config)?;
        let mut inner = model.lock()?;
        json(&run(inner.as_mut(), tokenizer, model.folder(), &config, caller)?)
    })
}

/// Checks a whole configuration against ``model`` and reads its data, without training; returns
/// statistics of each split as JSON.
///
/// ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in.
#[pyfunction]
pub(super) fn validate_lora(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    enter(py, || {
        let config: TrainingConfig = parse(config)?;
        json(&validate(model.lock()?.as_mut(), tokenizer, &config)?)
    })
}

/// Default settings of a room (``lora`` or ``generate``) as JSON.
#[pyfunction]
pub(super) fn defaults(py: Python<'_>, room: &str) -> PyResult<String> {
    enter(py, || match room {
        "lora" => json(&TrainingConfig::default()),
        "generate" => json(&GenerateConfig::default()),
        other => Err(Error::Config(format!("there is no room \"{other}\"; there are lora, generate"))),
    })
}
