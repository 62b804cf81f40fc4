//! Progress of a pruning run.

use std::ops::ControlFlow;

use crate::progress::{Event, Observer};
use crate::{Error, Result};

/// Reports `done` of `total` of a `stage`.
///
/// # Errors
/// [`Error::Interrupted`].
pub(super) fn progress(observer: &mut dyn Observer, stage: &str, done: usize, total: usize) -> Result<()> {
    let event = Event::Progress { stage: stage.to_owned(), done: done as u64, total: total as u64 };
    if observer.on(&event) == ControlFlow::Break(()) { Err(Error::Interrupted) } else { Ok(()) }
}
