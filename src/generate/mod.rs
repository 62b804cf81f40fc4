//! Text from a model: what the user may set, and how the next token is drawn.

mod config;
mod sampler;

pub use config::GenerateConfig;
pub use sampler::Sampler;
