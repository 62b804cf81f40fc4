//! Fine-tuning a language model: low-rank adapters, or every weight.

pub mod attach;
pub mod config;
mod plan;
pub mod run;

pub use config::{Method, TrainingConfig};
pub use run::{Report, run, validate};
