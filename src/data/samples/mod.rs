//! Rows as token ids.

mod sample;
pub(super) mod tokenize;

pub use sample::Sample;
pub use tokenize::{Learned, SplitReport, Tokenized, tokenize};
