//! Batches: packing, order and collation of samples.

mod batch;
pub(super) mod epoch;
mod examples;
pub(super) mod pack;

pub use batch::{Batch, Pairs, collate};
pub use epoch::epoch_batches;
pub use examples::Examples;
pub use pack::pack;
