//! Samples: rows as token ids with a loss mask.

mod dialogues;
mod encode;
mod labels;
mod plain;
mod sample;
pub(super) mod tokenize;

pub use labels::Labels;
pub use sample::Sample;
pub use tokenize::{SplitReport, TokenizedSplit, encode_rows, tokenize};
