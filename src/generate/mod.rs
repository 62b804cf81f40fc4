//! Generating text.

pub mod accuracy;
pub mod config;
pub mod decoder;
pub mod run;
pub mod sampler;
pub mod stop;

pub use config::GenerateConfig;
pub use run::{Report, run};
