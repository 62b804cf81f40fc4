//! The one doorway from Python into the engine: the GIL is released, errors are mapped.

use pyo3::prelude::*;

use super::error::to_python;
use crate::Result;

/// Runs `work` without the GIL.
pub(super) fn enter<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(to_python)
}
