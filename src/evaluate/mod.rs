//! Evaluation: log-probabilities of given texts, per token and over a data set.
//!
//! ```text
//! rows ── tokenize ──► Sample ── score_tokens ──► TokenScore ── summarise ──► Report
//! ```

mod divergence;
mod run;
mod score;

pub use divergence::{Divergence, Predictor, divergence};
pub use run::{Report, Settings, run};
pub use score::{Span, TokenScore, score_spans};
