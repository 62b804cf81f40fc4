//! Language models: what they learn from text, and from pairs of answers.

pub mod data;
mod loader;
pub mod objective;
mod preference;
pub mod reference;
pub mod task;
