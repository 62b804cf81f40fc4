//! Text generation.

pub mod accuracy;
pub mod config;
pub mod constraint;
mod draft;
pub mod embed;
pub mod finish;
pub mod log_probabilities;
pub mod penalties;
pub mod prompt_cache;
pub mod replay;
pub mod run;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
pub mod speculative;
pub mod stop_strings;

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod tests;

pub use config::GenerateConfig;
pub use run::{Report, run};
pub use scheduler::{Scheduler, SchedulerConfig};
pub use sequence::Event;
