//! Submodules under their full names.

use pyo3::prelude::*;
use pyo3::types::PyModule;

const CORE: &str = "efficientai_toolkit._core";

/// Makes each submodule of `_core` importable. An extension is no package, so that the import system finds none of them
/// itself, but pickle imports a class from its module.
pub(super) fn register(py: Python<'_>) -> PyResult<()> {
    let modules = py.import("sys")?.getattr("modules")?;
    for (name, value) in py.import(CORE)?.dict() {
        if let Ok(submodule) = value.cast::<PyModule>() {
            let name = format!("{CORE}.{name}");
            submodule.setattr("__name__", &name)?;
            modules.set_item(name, submodule)?;
        }
    }
    Ok(())
}
