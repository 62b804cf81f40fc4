//! Samples side by side.

pub(super) mod batch;
mod examples;
pub(super) mod pack;

pub use batch::{Batch, Pairs, collate, epoch_batches};
pub use examples::Examples;
pub use pack::pack;
