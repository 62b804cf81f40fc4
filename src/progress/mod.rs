//! Events of long-running work, and the observers that receive them.
//!
//! ```text
//! Started ─► Estimated ─► Evaluated(0) ─► ┌ Step ┐* ─► Evaluated ─► Checkpoint ─► … ─► Finished
//!                                         └──────┘
//! ```
//! `Overflow` may stand in the place of a `Step`, `OutOfMemory` before a `Step` or an `Evaluated`, and `Stopped` after
//! the last `Evaluated`. `Progress` stands before `Started`, where rows stay on disk or a reference model is computed.
//! [`Event::DECLARATIONS`] is the one list of events and their fields; `tests/test_callbacks.py` holds Python's classes to it.
//!
//! [`Observer::poll`] is called more often, between micro-batches, so that Ctrl-C is
//! felt within one forward pass.

mod declaration;
mod event;
mod observer;

pub use declaration::{Declaration, Field, Kind};
pub use event::{Event, MemoryEstimate};
pub use observer::{Observer, Quiet, Silent};
