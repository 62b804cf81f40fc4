//! Fine-tune, compress and ship models on the machine you have: Metal, CUDA or CPU.

// Foundation
pub mod error;
pub mod files;
pub mod hardware;
pub mod params;
pub mod progress;
pub mod rng;
pub mod threads;

pub mod nn;

pub mod adapters;
pub mod calibrate;
pub mod data;
pub mod io;
pub mod models;
pub mod train;

// Capabilities
pub mod distill;
pub mod evaluate;
pub mod exports;
pub mod generate;
pub mod lora;
pub mod prune;
pub mod quantize;
pub mod subset;

pub use ::kernels;
pub use error::{Error, Result};
