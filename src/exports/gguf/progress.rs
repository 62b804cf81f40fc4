//! Reports of how much is done.

use std::ops::ControlFlow;

use crate::progress::{Event, Observer};
use crate::{Error, Result};

/// A stage that is reported about ten times.
pub(super) struct Stage<'a> {
    name: &'static str,
    total: usize,
    done: usize,
    observer: &'a mut dyn Observer,
}

impl<'a> Stage<'a> {
    /// Begins the stage `name` with `total` units.
    pub(super) fn new(name: &'static str, total: usize, observer: &'a mut dyn Observer) -> Self {
        Self { name, total, done: 0, observer }
    }

    /// So many more units are done.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the observer stops the work.
    pub(super) fn add(&mut self, units: usize) -> Result<()> {
        let tenth = |done: usize| done * 10 / self.total.max(1);
        let (before, after) = (tenth(self.done), tenth(self.done + units));
        self.done += units;
        let flow = if after > before {
            let (done, total) = (self.done as u64, self.total as u64);
            self.observer.on(&Event::Progress { stage: self.name.to_owned(), done, total })
        } else {
            self.observer.poll()
        };
        if flow == ControlFlow::Break(()) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
