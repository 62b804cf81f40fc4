//! `_core.kernels`: measuring the kernels.

use efficientai_toolkit::kernels::measure as engine;
use pyo3::prelude::*;

use super::enter::enter;
use super::json::{json, parse};

/// Median seconds of one call of a kernel; ``request`` is the JSON of what to measure.
#[pyfunction]
pub(super) fn measure(py: Python<'_>, request: &str) -> PyResult<f64> {
    enter(py, || Ok(engine::measure(&parse(request)?)?))
}

/// Median seconds of one pass of a convolution; ``request`` is the JSON of what to measure.
#[pyfunction]
pub(super) fn measure_convolution(py: Python<'_>, request: &str) -> PyResult<f64> {
    enter(py, || Ok(engine::measure_convolution(&parse(request)?)?))
}

/// Every kernel beside what the machine allows, as JSON.
#[pyfunction]
pub(super) fn report(py: Python<'_>) -> PyResult<String> {
    enter(py, || json(&engine::report()?))
}
