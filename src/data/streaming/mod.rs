//! Rows that stay on disk.

mod dataset;
mod index;
mod megabatches;
mod rows;

pub use dataset::Streamed;
pub use megabatches::{Window, Windows};
pub use rows::{Rows, read_streamed};
