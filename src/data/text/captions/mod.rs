//! Texts of image–text models: rows of one length, after the cleaning that each family was trained with.

mod byte_bpe;
mod cleaning;
mod tokenizer;

pub use tokenizer::CaptionTokenizer;
