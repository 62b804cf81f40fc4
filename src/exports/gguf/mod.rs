//! [GGUF](crate::io::gguf) files of language models and of their adapters.
//!
//! A file is written tensor by tensor: of a quantized model, one matrix at a time is dense.

mod adapter;
mod config;
mod file_type;
mod general;
mod importance;
mod mixture;
mod parameters;
mod progress;
mod run;
mod settings;
mod tensors;
mod tokenizer;
mod verify;

pub use adapter::{verify_adapter, write_adapter};
pub use config::{Card, GgufConfig};
pub use file_type::FileType;
pub use general::read_card;
pub use run::{Report, write};
pub use verify::verify;
