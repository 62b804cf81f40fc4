//! `_core.adapters`: adapters on disk.

use std::path::PathBuf;

use efficientai_toolkit::adapters;
use efficientai_toolkit::io::output::IfExists;
use pyo3::prelude::*;

use super::enter::enter;
use super::json::{json, parse};

/// Merges an adapter into its model, writes the result to ``output`` and returns a JSON report.
#[pyfunction]
#[pyo3(signature = (model_path, adapter_path, output, dequantize=false, overwrite=false))]
pub(super) fn fuse(
    py: Python<'_>,
    model_path: PathBuf,
    adapter_path: PathBuf,
    output: PathBuf,
    dequantize: bool,
    overwrite: bool,
) -> PyResult<String> {
    enter(py, || json(&adapters::fuse(&model_path, &adapter_path, &output, dequantize, existing(overwrite))?))
}

/// Writes a copy of an adapter in another format and returns a JSON report.
///
/// ``format`` is ``mlx`` or ``peft``; ``None`` takes the one that the adapter is not in.
#[pyfunction]
#[pyo3(signature = (adapter_path, output, format=None, model_path=None, overwrite=false))]
pub(super) fn convert(
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

fn existing(overwrite: bool) -> IfExists {
    if overwrite { IfExists::Overwrite } else { IfExists::Fail }
}
