//! Evaluation: log-probabilities of given texts, per token and over a data set.
//!
//! ```text
//! rows ── tokenize ──► Sample ── score_tokens ──► TokenScore ── summarise ──► Report
//! ```

mod run;
mod score;

pub use run::{Report, Settings, run};
pub use score::{Span, TokenScore, score_spans};
