//! Text generation.

pub mod accuracy;
pub mod config;
pub mod incremental_decoder;
pub mod run;
pub mod sampler;
pub mod stop_strings;

pub use config::GenerateConfig;
pub use run::{Report, run};
