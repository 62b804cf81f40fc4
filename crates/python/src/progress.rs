//! `_core.progress`: events of long-running work.

use efficientai_toolkit::progress::Event;
use pyo3::prelude::*;

use super::enter::enter;
use super::json::json;

/// Every event that an observer may receive, as JSON: its ``name`` and its ``fields``.
///
/// A field has a ``name``, a ``kind`` (``int``, ``float`` or ``str``) and may be ``optional``.
#[pyfunction]
pub(super) fn events(py: Python<'_>) -> PyResult<String> {
    enter(py, || json(&Event::DECLARATIONS))
}
