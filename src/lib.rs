//! Fine-tune, compress and ship models on the machine you have: Metal, CUDA or CPU.

pub mod data;
pub mod error;
pub mod generate;
pub mod progress;
pub mod train;

pub use error::{Error, Result};
