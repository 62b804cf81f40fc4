//! Text to token ids and back.

mod bounded;
mod captions;
mod contents;
mod decode_stream;
mod description;
mod difference;
mod files;
mod growth;
mod llama;
mod special_tokens;
mod token_bytes;
mod tokenizer;

pub use captions::CaptionTokenizer;
pub use contents::Contents;
pub use decode_stream::DecodeStream;
pub use tokenizer::Tokenizer;
