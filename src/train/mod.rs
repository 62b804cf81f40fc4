//! The training loop and its parts.

mod schedule;

pub use schedule::Schedule;
