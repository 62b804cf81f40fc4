//! `_core.device`: the machine and the device in use.

use efficientai_toolkit::hardware as engine;
use efficientai_toolkit::kernels::group::Group;
use efficientai_toolkit::kernels::{self, blas, check_environment};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::enter::{enter, enter_without_threads, own_threads};
use super::json::json;

/// What `start` found; configuring again would undo what the user has set since.
static REPORT: PyOnceLock<String> = PyOnceLock::new();

/// Checks the loaded MLX and the environment variables, passes log records to ``logging``, chooses the device and sets the
/// allocator's limits. To be called once, before everything else.
///
/// Raises ``DependencyError`` unless the loaded MLX is the one the engine was built for, and
/// ``ConfigError`` for a variable with a value that it cannot have.
#[pyfunction]
pub(super) fn start(py: Python<'_>) -> PyResult<()> {
    enter_without_threads(py, engine::check_mlx_version)?;
    enter_without_threads(py, || Ok(check_environment()?))?;
    // An application with a logger of its own for Rust keeps it.
    let _ = pyo3_log::try_init();
    hardware(py)?;
    // A GPU belongs to the process that opened it.
    if kernels::on_cpu() { Ok(()) } else { own_threads() }
}

/// The machine, the device in use and the limits set on MLX's allocator, as JSON.
#[pyfunction]
pub(super) fn hardware(py: Python<'_>) -> PyResult<String> {
    REPORT.get_or_try_init(py, || enter_without_threads(py, || json(&engine::configure()?))).cloned()
}

/// This process's rank among those that were started together, and their number; waits for them the first time.
#[pyfunction]
pub(super) fn process_group(py: Python<'_>) -> PyResult<(usize, usize)> {
    enter(py, || {
        let group = Group::join()?;
        Ok((group.rank(), group.size()))
    })
}

/// Lets MLX multiply float32 matrices on the CPU with the engine's kernel; ``False`` if it has no
/// function that could be replaced.
#[pyfunction]
pub(super) fn accelerate_mlx() -> bool {
    blas::accelerate()
}

/// How often MLX has called the engine for a product of float32 matrices.
#[pyfunction]
pub(super) fn sgemm_calls() -> u64 {
    blas::sgemm_calls()
}
