//! Coresets: a few rows that stand for all of them, chosen by their embeddings.

mod embeddings;
mod facility_location;

pub use embeddings::Embeddings;
pub use facility_location::{coverage, facility_location};
