//! File formats of training data.

mod bounded;
pub(super) mod collector;
mod csv;
mod json;
pub(super) mod jsonl;
mod parquet;
pub(super) mod read;
mod tokens;

pub use read::{read_rows, read_rows_and_json};
pub(in crate::data) use tokens::TOKENS_EXTENSION;
pub use tokens::tokens_file;
