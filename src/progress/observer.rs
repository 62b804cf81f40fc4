//! Observers of events.

use std::ops::ControlFlow;

use super::event::Event;

/// Receives events and may stop the work by returning [`ControlFlow::Break`].
pub trait Observer {
    /// Called for each event, in the order drawn in [the module](super).
    fn on(&mut self, event: &Event) -> ControlFlow<()>;

    /// Called between units of work that emit no event.
    fn poll(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// An observer that ignores events and never stops the work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn on(&mut self, _: &Event) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Hides events from an observer, which may still stop the work.
pub struct Quiet<'a>(pub &'a mut dyn Observer);

impl Observer for Quiet<'_> {
    fn on(&mut self, _: &Event) -> ControlFlow<()> {
        self.0.poll()
    }

    fn poll(&mut self) -> ControlFlow<()> {
        self.0.poll()
    }
}
