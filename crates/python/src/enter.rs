//! The one doorway from Python into the engine: the GIL is released, errors and panics are mapped, and processes that
//! cannot work are refused.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use efficientai_toolkit::Result;
use pyo3::prelude::*;

use super::error::{forked, internal, to_python};

/// The process that has the threads of the engine and of MLX; 0 before there are any.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Runs `work`, which may start threads, without the GIL.
pub(super) fn enter<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    own_threads()?;
    enter_without_threads(py, work)
}

/// Runs `work`, which starts no threads, so that a process may still be forked afterwards.
pub(super) fn enter_without_threads<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(outcome) => outcome.map_err(to_python),
        Err(panic) => Err(internal(panic.as_ref())),
    }
}

/// Makes this the process of the threads, unless it was forked from that: threads do not survive a fork, and whoever
/// waited for them would wait for ever.
pub(super) fn own_threads() -> PyResult<()> {
    let this = process::id();
    match OWNER.compare_exchange(0, this, Ordering::Relaxed, Ordering::Relaxed) {
        Err(owner) if owner != this => Err(forked()),
        _ => Ok(()),
    }
}
