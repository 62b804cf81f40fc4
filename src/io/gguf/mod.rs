//! [GGUF](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), the format of llama.cpp: one file with the
//! configuration, the tokenizer and the tensors of a model. All numbers are little-endian.
//!
//! ```text
//! magic "GGUF" · u32 version · u64 tensors · u64 values
//! values    string key · u32 type · value
//! tensors   string name · u32 dimensions · u64 sizes, innermost first · u32 type · u64 offset
//! padding to a multiple of `general.alignment`, then the data of the tensors, each at its offset
//! ```
//! A string is a u64 length and UTF-8; an array a u32 type, a u64 length and its values.

pub mod architecture;
pub mod decode;
pub mod encode;
mod input;
mod load;
mod packed;
mod reader;
mod tensor_type;
mod tensors;
mod tokenizer;
mod value;
mod writer;

pub use load::{is_file, load};
pub use packed::packed_format;
pub use reader::{Reader, TensorInfo};
pub use tensor_type::TensorType;
pub use tensors::{HeadCounts, Parts};
pub use tokenizer::{TokenizerFiles, rule_name, tokenizer};
pub use value::{Array, Metadata, Strings, Value};
pub use writer::{NewTensor, write};

/// First bytes of a file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Version that is written. Version 2 has the same layout, 1 shorter lengths.
pub const VERSION: u32 = 3;

/// Metadata key of the alignment of tensors in bytes.
pub const ALIGNMENT: &str = "general.alignment";

/// Alignment of tensors without that key.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// Longest name of a tensor in bytes that llama.cpp reads.
pub const MAX_NAME: usize = 63;

/// Largest number of dimensions of a tensor.
pub const MAX_DIMENSIONS: usize = 4;
