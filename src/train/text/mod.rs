//! Training language models on text and on preference pairs.

pub mod data;
mod loader;
pub mod objective;
mod preference;
pub mod quantization_aware;
pub mod reference;
pub mod task;
