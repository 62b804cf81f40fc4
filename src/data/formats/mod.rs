//! File formats of training data.

mod bounded;
pub(super) mod collector;
mod csv;
mod json;
pub(super) mod jsonl;
mod parquet;
pub(super) mod read;

pub use read::read_rows;
