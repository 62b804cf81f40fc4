//! Text to train on: from files on disk to padded batches of token ids. Nothing here knows MLX.
//!
//! ```text
//! train.jsonl ── read_splits ──► Located ── tokenize ──► Sample ── pack ──► Examples ── epoch_batches, batch ──► Batch
//! ```
//!
//! Rows that stay on disk: `read_streamed` ──► [`Streamed`] ── `windows` ──► [`Window`], which has [`Examples`] and their
//! order.

mod alpaca;
mod batch;
mod chat;
mod columns;
mod examples;
mod formats;
mod information;
mod jinja;
mod lines;
mod near;
mod pack;
mod pair;
mod row;
mod sample;
mod sharegpt;
mod sources;
mod splits;
mod statistics;
mod stream;
mod streamed;
mod tojson;
mod tokenize;
mod tokenizer;
mod turns;

#[cfg(test)]
mod fixture;

pub use alpaca::Instruction;
pub use batch::{Batch, Pairs, collate, epoch_batches};
pub use chat::ChatTemplate;
pub use columns::Columns;
pub use examples::Examples;
pub use formats::{Located, Place, read_rows};
pub use pack::pack;
pub use pair::{Answer, Pair, Prompt};
pub use row::Row;
pub use sample::Sample;
pub use splits::{Splits, read_splits};
pub use statistics::{Bar, DataReport, Lengths, PairStatistics, SplitStatistics, describe};
pub use stream::TextStream;
pub use streamed::{Rows, Streamed, Window, read_streamed};
pub use tokenize::{Learned, SplitReport, Tokenized, tokenize};
pub use tokenizer::Tokenizer;
