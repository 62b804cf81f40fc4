//! Adapters: low-rank matrices added to the linear layers of a [`Network`](crate::nn::Network), and soft
//! prompts of language models.

pub mod adapter;
pub mod attach;
pub mod fidelity;
pub mod finalize;
pub mod formats;
pub mod fuse;
pub mod library;
pub mod merge;
pub mod names;
pub mod patterns;
pub mod pissa;
pub mod ranks;
pub mod whole;

pub use adapter::{Adapter, AdapterLayer};
pub use attach::{AdapterSettings, attach, detach};
pub use formats::{
    ConversionReport, Format, PromptKind, SoftPrompt, StoredAdapter, convert, load, read, write,
};
pub use fuse::{FuseReport, fuse};
pub use library::Library;
pub use merge::{merge_weights, merged_weight};
pub use whole::WholeModule;

#[cfg(test)]
mod tests;
