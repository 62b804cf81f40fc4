//! What a model thinks of texts it did not write: its log-probabilities, token by token and over data.
//!
//! ```text
//! rows ── tokenize ──► Sample ── score_tokens ──► TokenScore ── summarise ──► Report
//! ```

mod run;
mod score;

pub use run::{Report, Settings, run};
pub use score::{Span, TokenScore, score_spans};
