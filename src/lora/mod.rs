//! Fine-tuning of language models: low-rank adapters, soft prompts, or full fine-tuning.

pub mod adalora;
pub mod analyze;
pub mod config;
mod dataset;
pub mod prompt;
pub mod quantization;
mod run;
pub mod spectrum;

pub use analyze::{Analysis, AnalysisSettings, analyze};
pub use config::{Method, TrainingConfig};
pub use run::{Report, TaskFactory, check_output, estimate_memory, run, run_task, validate};
