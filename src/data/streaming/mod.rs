//! Datasets that stay on disk.

mod dataset;
mod index;
mod megabatches;
mod rows;

pub use dataset::StreamingDataset;
pub use megabatches::{Megabatch, Megabatches};
pub use rows::{IndexedRows, stream_splits};
