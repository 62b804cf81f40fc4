//! Text to token ids and back.

mod decode_stream;
mod files;
mod llama;
mod special_tokens;
mod tokenizer;

pub use decode_stream::DecodeStream;
pub use tokenizer::Tokenizer;
