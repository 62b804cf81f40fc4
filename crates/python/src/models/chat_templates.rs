//! The processes that render chat templates with Python's `jinja2`.

use std::sync::Arc;

use efficientai_toolkit::data::{Renderer, RendererProcess};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// Module that a process runs.
const MODULE: &str = "efficientai_toolkit._chat_templates";

/// Returns the renderer of this process, which runs the same Python.
///
/// # Errors
/// An interpreter without the path of its program, as in applications that embed Python.
pub(super) fn renderer(py: Python<'_>) -> PyResult<Arc<dyn Renderer>> {
    static RENDERER: PyOnceLock<Arc<dyn Renderer>> = PyOnceLock::new();
    let create = || -> PyResult<Arc<dyn Renderer>> {
        let sys = py.import("sys")?;
        let program: Option<String> = sys.getattr("executable")?.extract()?;
        let path: Vec<String> = sys.getattr("path")?.extract()?;
        let command = vec![program.unwrap_or_default(), "-P".to_owned(), "-m".to_owned(), MODULE.to_owned()];
        // What this interpreter imports, that one can too.
        let separator = if cfg!(windows) { ";" } else { ":" };
        let environment = vec![("PYTHONPATH".to_owned(), path.join(separator))];
        Ok(Arc::new(RendererProcess::new(command, environment)))
    };
    RENDERER.get_or_try_init(py, create).map(Arc::clone)
}
