//! Fine-tuning.

use std::path::PathBuf;

use efficientai_toolkit::adapters::{self, Library, fuse};
use efficientai_toolkit::generate::GenerateConfig;
use efficientai_toolkit::io::output::IfExists;
use efficientai_toolkit::lora::{self, AnalysisSettings, TrainingConfig, analyze, run, validate};
use efficientai_toolkit::{Error, data};
use pyo3::prelude::*;

use super::enter::enter;
use super::json::{json, parse};
use super::model::Model;
use super::observer::observed;
use super::tokenizer::Tokenizer;

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
        let report = run(inner.as_mut(), tokenizer, model.folder(), &config, caller);
        // A run that stops early leaves its adapter on the model too.
        *model.library() = Library::from_network(inner.as_mut())?;
        json(&report?)
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
    observed(py, None, |caller| {
        let config: TrainingConfig = parse(config)?;
        let mut inner = model.lock()?;
        let report = validate(inner.as_mut(), tokenizer, &config, caller);
        *model.library() = Library::from_network(inner.as_mut())?;
        json(&report?)
    })
}

/// Looks at the data of ``config`` and at the gradient of each layer that it adapts, without training; returns
/// both as JSON.
///
/// ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in, ``probe`` that of ``batches``, whose mean
/// gradient is taken, and ``width``, how many singular values are looked for.
#[pyfunction]
pub(super) fn analyze_lora(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
    probe: &str,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, None, |caller| {
        let (config, probe): (TrainingConfig, AnalysisSettings) = (parse(config)?, parse(probe)?);
        let mut inner = model.lock()?;
        let report = analyze(inner.as_mut(), tokenizer, &config, &probe, caller);
        *model.library() = Library::from_network(inner.as_mut())?;
        json(&report?)
    })
}

/// What a run with this configuration is expected to take of MLX's memory: JSON of a ``MemoryEstimate``.
///
/// ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in.
#[pyfunction]
pub(super) fn estimate_memory(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    config: &str,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, None, |caller| {
        let config: TrainingConfig = parse(config)?;
        let mut inner = model.lock()?;
        let estimate = lora::estimate_memory(inner.as_mut(), tokenizer, &config, caller);
        *model.library() = Library::from_network(inner.as_mut())?;
        json(&estimate?)
    })
}

/// Merges an adapter into its model, writes the result to ``output`` and returns a JSON report.
#[pyfunction]
#[pyo3(signature = (model_path, adapter_path, output, dequantize=false, overwrite=false))]
pub(super) fn fuse_adapter(
    py: Python<'_>,
    model_path: PathBuf,
    adapter_path: PathBuf,
    output: PathBuf,
    dequantize: bool,
    overwrite: bool,
) -> PyResult<String> {
    enter(py, || json(&fuse(&model_path, &adapter_path, &output, dequantize, existing(overwrite))?))
}

fn existing(overwrite: bool) -> IfExists {
    if overwrite { IfExists::Overwrite } else { IfExists::Fail }
}

/// Writes a copy of an adapter in another format and returns a JSON report.
///
/// ``format`` is ``mlx`` or ``peft``; ``None`` takes the one that the adapter is not in.
#[pyfunction]
#[pyo3(signature = (adapter_path, output, format=None, model_path=None, overwrite=false))]
pub(super) fn convert_adapter(
    py: Python<'_>,
    adapter_path: PathBuf,
    output: PathBuf,
    format: Option<&str>,
    model_path: Option<PathBuf>,
    overwrite: bool,
) -> PyResult<String> {
    enter(py, || {
        let format = format.map(|name| parse(&format!("{name:?}"))).transpose()?;
        let model = model_path.as_deref();
        json(&adapters::convert(&adapter_path, &output, format, model, existing(overwrite))?)
    })
}

/// Rows of each batch in one pass over rows of these lengths, in tokens: what another library has to read to learn from
/// the same batches.
#[pyfunction]
pub(super) fn epoch_batches(
    lengths: Vec<usize>,
    batch_size: usize,
    seed: u64,
    epoch: u64,
) -> Vec<Vec<usize>> {
    data::epoch_batches(&lengths, batch_size, seed, epoch)
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
