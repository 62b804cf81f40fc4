//! Files of rows.

mod csv;
mod json;
pub(super) mod jsonl;
mod parquet;
pub(super) mod read;

pub use read::{Located, Place, read_rows};
