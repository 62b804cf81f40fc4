//! What long work tells its caller while it runs.
//!
//! ```text
//! Started ─► Estimated ─► Evaluated(0) ─► ┌ Step ┐* ─► Evaluated ─► Checkpoint ─► … ─► Finished
//!                                         └──────┘
//! ```
//! `Overflow` may stand in the place of a `Step`, `OutOfMemory` before a `Step` or an `Evaluated`, and `Stopped` after
//! the last `Evaluated`. `Progress` stands before `Started`, where rows stay on disk or a reference model is computed.
//! Python's classes are held to the declarations here by `tests/test_callbacks.py`.
//!
//! [`Observer::poll`] is called more often, between micro-batches, so that Ctrl-C is
//! felt within one forward pass.

mod event;
mod observer;

pub use event::{Event, MemoryEstimate};
pub use observer::{Observer, Quiet, Silent};
