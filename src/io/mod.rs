//! Files: checkpoints, and writing without ever leaving half a file.

pub mod atomic;
pub mod config;
pub mod folder;
pub mod foreign;
pub mod output;
pub mod quantization;
mod repack;
pub mod tensors;
pub mod weights;
