//! How generation ends.

use serde::Serialize;

/// Reason why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An end-of-sequence token, a stop string, or the end of a constrained format.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// Whoever asked no longer wants it.
    Cancelled,
    /// It failed.
    Error,
}
