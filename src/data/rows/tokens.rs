//! Rows that are token ids already.

use std::sync::Arc;

/// Token ids of one row, and which of them are learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Token ids, special tokens included; never empty.
    pub ids: Vec<u32>,
    /// Whether token `i` is learned where prompts are masked, `[ids.len()]`.
    pub learned: Vec<bool>,
    /// [Fingerprint](crate::data::Tokenizer::fingerprint) of the tokenizer that the ids are of.
    pub tokenizer: Arc<str>,
}
