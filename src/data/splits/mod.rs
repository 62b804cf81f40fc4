//! Training, validation and test splits.

pub(super) mod read;
mod sources;

pub use read::{Splits, read_splits};
