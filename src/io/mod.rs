//! Files: checkpoints, adapters, and writing without ever leaving half a file.

pub mod adapters;
pub mod atomic;
pub mod folder;
pub mod output;
mod repack;
pub mod tensors;
pub mod weights;
