//! Rows that stay on disk.

mod dataset;
mod index;

pub use dataset::{Rows, Streamed, Window, read_streamed};
