//! Images: decoding, and the preprocessing of vision models, on all threads.

mod decode;
mod describe;
mod processor;
mod settings;

pub use decode::Pixels;
pub use processor::{ImageProcessor, ImageSource};
