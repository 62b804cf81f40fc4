//! Fine-tuning a language model: low-rank adapters, or every weight.

pub mod adalora;
pub mod attach;
pub mod config;
pub mod method;
pub mod pissa;
mod plan;
pub mod run;

pub use config::{Method, TrainingConfig};
pub use run::{Report, run, validate};
