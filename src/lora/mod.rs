//! Fine-tuning a language model: low-rank adapters, virtual tokens, or every weight.

pub mod adalora;
pub mod analyze;
pub mod config;
mod dataset;
pub mod prompt;
pub mod run;
pub mod spectrum;

pub use analyze::{Analysis, AnalysisSettings, analyze};
pub use config::{Method, TrainingConfig};
pub use run::{Report, estimate_memory, run, validate};
