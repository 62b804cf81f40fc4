//! Engine errors as Python exceptions. The classes live in Python, where they have docs.

use efficientai_toolkit::Error;
use efficientai_toolkit::files::panic_message;
use pyo3::PyErr;
use pyo3::exceptions::PyKeyboardInterrupt;

mod exceptions {
    pyo3::import_exception!(efficientai_toolkit.exceptions, ToolkitError);
    pyo3::import_exception!(efficientai_toolkit.exceptions, ConfigError);
    pyo3::import_exception!(efficientai_toolkit.exceptions, DatasetError);
    pyo3::import_exception!(efficientai_toolkit.exceptions, HardwareCompatibilityError);
    pyo3::import_exception!(efficientai_toolkit.exceptions, DependencyError);
    pyo3::import_exception!(efficientai_toolkit.exceptions, ModelLoadingError);
    pyo3::import_exception!(efficientai_toolkit.exceptions, TrainingError);
}

/// One class per variant; no catch-all, so that a new variant must choose.
pub(super) fn to_python(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Config(_) => exceptions::ConfigError::new_err(message),
        Error::Dataset(_) => exceptions::DatasetError::new_err(message),
        Error::Hardware(_) => exceptions::HardwareCompatibilityError::new_err(message),
        Error::Dependency(_) => exceptions::DependencyError::new_err(message),
        Error::ModelLoading(_) => exceptions::ModelLoadingError::new_err(message),
        Error::Training(_) => exceptions::TrainingError::new_err(message),
        Error::Io { .. } | Error::Mlx(_) => exceptions::ToolkitError::new_err(message),
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
    }
}

/// The error of a process that was forked after the engine had started its threads.
pub(super) fn forked() -> PyErr {
    exceptions::ToolkitError::new_err(
        "this process was forked after the engine had started its threads, which it lacks: start processes with \
         multiprocessing.get_context(\"spawn\"), or load models in the new processes only",
    )
}

/// A setting, argument or file with a wrong value.
pub(super) fn config_error(message: String) -> PyErr {
    to_python(Error::Config(message))
}

/// A panic is a defect of the engine; Python sees it as any other error.
pub(super) fn internal(panic: &(dyn std::any::Any + Send)) -> PyErr {
    let reason = panic_message(panic);
    exceptions::ToolkitError::new_err(format!("internal error, please report it: {reason}"))
}
