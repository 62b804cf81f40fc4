//! Progress to Python callables, and Ctrl-C from Python.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use efficientai_toolkit::progress::{Event, Observer};
use efficientai_toolkit::{Error, Result};
use pyo3::prelude::*;

use super::enter::enter;

/// Time between two looks for Ctrl-C.
const POLL: Duration = Duration::from_millis(100);

/// Calls Python while the engine works; whatever Python raises stops the work and is raised
/// again, unchanged, by [`observed`].
pub(super) struct Caller {
    callback: Option<Py<PyAny>>,
    raised: Option<PyErr>,
    polled: Instant,
}

impl Caller {
    /// Calls `callback(text)`, or only looks for Ctrl-C when there is none.
    pub(super) fn call(&mut self, text: &str) -> ControlFlow<()> {
        self.attached(|callback, py| match callback {
            Some(callback) => callback.call1(py, (text,)).map(|_| ()),
            None => Ok(()),
        })
    }

    /// Looks for Ctrl-C if that is due.
    pub(super) fn poll(&mut self) -> ControlFlow<()> {
        if self.polled.elapsed() < POLL { self.stop_if_raised() } else { self.attached(|_, _| Ok(())) }
    }

    fn attached(
        &mut self,
        work: impl FnOnce(Option<&Py<PyAny>>, Python<'_>) -> PyResult<()>,
    ) -> ControlFlow<()> {
        // After an exception the engine still reports the checkpoint it saves: pass that on.
        let outcome = Python::attach(|py| py.check_signals().and_then(|()| work(self.callback.as_ref(), py)));
        self.polled = Instant::now();
        if let Err(error) = outcome {
            self.raised.get_or_insert(error);
        }
        self.stop_if_raised()
    }

    fn stop_if_raised(&self) -> ControlFlow<()> {
        if self.raised.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Observer for Caller {
    fn on(&mut self, event: &Event) -> ControlFlow<()> {
        match serde_json::to_string(event) {
            Ok(json) => self.call(&json),
            Err(_) => ControlFlow::Continue(()),
        }
    }

    fn poll(&mut self) -> ControlFlow<()> {
        Caller::poll(self)
    }
}

/// [`enter`] with a [`Caller`] for `callback`.
pub(super) fn observed<T: Send>(
    py: Python<'_>,
    callback: Option<Py<PyAny>>,
    work: impl FnOnce(&mut Caller) -> Result<T> + Send,
) -> PyResult<T> {
    let mut caller = Caller { callback, raised: None, polled: Instant::now() };
    let outcome = enter(py, || match work(&mut caller) {
        // Its cause is in `raised`.
        Err(Error::Interrupted) => Ok(None),
        other => other.map(Some),
    });
    match (caller.raised, outcome?) {
        (Some(error), _) => Err(error),
        (None, Some(value)) => Ok(value),
        (None, None) => Err(super::error::to_python(Error::Interrupted)),
    }
}
