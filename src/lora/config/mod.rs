//! Fine-tuning configuration.

mod adapters;
mod combinations;
mod init;
mod method;
mod objective;
mod prompt;
mod training;
mod validate;

pub use init::{LoraInit, PromptInit};
pub use method::Method;
pub use training::TrainingConfig;
