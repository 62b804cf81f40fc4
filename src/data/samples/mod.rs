//! Rows as token ids.

mod encode;
mod learned;
mod sample;
pub(super) mod tokenize;

pub use learned::Learned;
pub use sample::Sample;
pub use tokenize::{SplitReport, Tokenized, tokenize};
