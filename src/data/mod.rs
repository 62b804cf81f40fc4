//! Text to train on: from files on disk to padded batches of token ids. Nothing here knows MLX.
//!
//! ```text
//! train.jsonl ── read_splits ──► Located ── tokenize ──► Sample ── epoch_batches, collate ──► Batch
//! ```

mod batch;
mod chat;
mod jinja;
mod jsonl;
mod row;
mod sample;
mod splits;
mod stream;
mod tojson;
mod tokenize;
mod tokenizer;
mod turns;

#[cfg(test)]
mod fixture;

pub use batch::{Batch, collate, epoch_batches};
pub use chat::ChatTemplate;
pub use jsonl::{Located, read_rows};
pub use row::Row;
pub use sample::Sample;
pub use splits::{Splits, read_splits};
pub use stream::TextStream;
pub use tokenize::{DataReport, SplitReport, Tokenized, describe, tokenize};
pub use tokenizer::Tokenizer;
