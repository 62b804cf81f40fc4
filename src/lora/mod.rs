//! Fine-tuning a language model: low-rank adapters, virtual tokens, or every weight.

pub mod adalora;
pub mod analyze;
pub mod attach;
mod check;
pub mod config;
mod dataset;
pub mod fuse;
pub mod library;
pub mod method;
mod objective;
pub mod pissa;
mod plan;
pub mod prompt;
mod ranks;
pub mod run;
pub mod spectrum;

pub use analyze::{Analysis, Probe, analyze};
pub use config::{Method, TrainingConfig};
pub use fuse::{FuseReport, fuse};
pub use library::Library;
pub use run::{Report, estimate_memory, run, validate};
