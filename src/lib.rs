//! Fine-tune, compress and ship models on the machine you have: Metal, CUDA or CPU.

pub mod error;
pub mod io;
pub mod kernels;
pub mod models;
pub mod nn;
pub mod progress;
pub mod rng;

pub use error::{Error, Result};
