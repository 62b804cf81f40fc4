//! Files: checkpoints, and writing without ever leaving half a file.

pub mod atomic;
pub mod config;
pub mod folder;
pub mod output;
pub mod quantization;
pub mod tensors;
pub mod weights;
