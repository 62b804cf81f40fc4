//! Training, validation and test rows.

pub(super) mod read;
mod sources;

pub use read::{Splits, read_splits};
