//! [GGUF](crate::io::gguf) files of language models and of their adapters.
//!
//! A file is written tensor by tensor: of a quantized model, one matrix at a time is dense.

mod config;
mod file_type;
mod importance;
mod mixture;
mod parameters;
mod progress;
mod run;
mod tensors;

pub use config::{Card, GgufConfig};
pub use file_type::FileType;
pub use run::{Report, write};
