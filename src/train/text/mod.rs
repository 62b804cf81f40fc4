//! Language models: what they learn from text, and from pairs of answers.

mod batches;
pub mod data;
pub mod objective;
mod preference;
pub mod reference;
pub mod task;
