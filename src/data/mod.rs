//! Text to train on: from files on disk to padded batches of token ids. Nothing here knows MLX.
//!
//! ```text
//! train.jsonl ── read_splits ──► LocatedRow ── tokenize ──► Sample ── pack ──► Examples ── epoch_batches, batch ──► Batch
//! ```
//!
//! Rows that stay on disk: `read_streamed` ──► [`StreamingDataset`] ── `windows` ──► [`Megabatch`], which has [`Examples`] and their
//! order.

mod batches;
mod chat;
mod formats;
mod rows;
mod samples;
mod splits;
mod statistics;
mod streaming;
mod text;

#[cfg(test)]
mod fixture;

pub use batches::{Batch, Examples, Pairs, collate, epoch_batches, pack};
pub use chat::ChatTemplate;
pub use formats::read_rows;
pub use rows::{Answer, Columns, Instruction, LocatedRow, Pair, Position, Prompt, Row};
pub use samples::{Labels, Sample, SplitReport, TokenizedSplit, tokenize};
pub use splits::{Splits, read_splits};
pub use statistics::{DataReport, HistogramBin, LengthStatistics, PairStatistics, SplitStatistics, describe};
pub use streaming::{IndexedRows, Megabatch, Megabatches, StreamingDataset, stream_splits};
pub use text::{DecodeStream, Tokenizer};
