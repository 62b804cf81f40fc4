//! The one doorway from Python into the engine: the GIL is released, errors and panics are mapped.

use std::panic::{AssertUnwindSafe, catch_unwind};

use efficientai_toolkit::Result;
use pyo3::prelude::*;

use super::error::{internal, to_python};

/// Runs `work` without the GIL.
pub(super) fn enter<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(outcome) => outcome.map_err(to_python),
        Err(panic) => Err(internal(panic.as_ref())),
    }
}
