//! Training, validation and test splits.

pub(super) mod read;
mod sources;

pub use read::{SourceFiles, Splits, read_splits};
