//! The device.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::enter::enter;
use super::json::json;
use crate::hardware as engine;

/// What was configured on import; configuring again would undo what the user set since.
static REPORT: PyOnceLock<String> = PyOnceLock::new();

/// Chooses the device and sets the allocator's limits, once.
pub(super) fn configure(py: Python<'_>) -> PyResult<()> {
    hardware(py).map(|_| ())
}

/// The machine, the device in use and the limits set on MLX's allocator, as JSON.
#[pyfunction]
pub(super) fn hardware(py: Python<'_>) -> PyResult<String> {
    REPORT.get_or_try_init(py, || enter(py, || json(&engine::configure()?))).cloned()
}

/// Raises ``DependencyError`` unless the loaded MLX is the one the engine was built for.
#[pyfunction]
pub(super) fn check_mlx_version(py: Python<'_>) -> PyResult<()> {
    enter(py, engine::check_mlx_version)
}
