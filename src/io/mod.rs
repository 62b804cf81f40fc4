//! Files: model folders, safetensors, quantization formats, output folders and atomic writes. Nothing in here knows a
//! model; weights are loaded into any [`Network`](crate::nn::Network).

pub mod atomic;
pub mod checkpoint;
pub mod config;
pub mod folder;
pub mod gguf;
mod lock;
pub mod output;
pub mod quantization;
pub mod shards;
pub mod sparsity;
mod summary;
pub mod tensors;
pub mod weights;
pub mod wrapper;
