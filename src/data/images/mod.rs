//! Images: decoding, and the preprocessing of vision models, on all threads.

mod decode;
mod describe;
mod pairs;
mod processor;
mod resample;
mod settings;

pub use decode::Pixels;
pub use pairs::{ImageTexts, read_image_texts};
pub use processor::{ImageProcessor, ImageSource};
