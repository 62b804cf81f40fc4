//! Image–text models: features, zero-shot classification, retrieval and search.

mod encode;
mod load;
mod recall;
mod save;
mod search;

pub use encode::{encode_images, encode_pixels, encode_texts};
pub use load::{LoadConfig, Processor, load};
pub use recall::{Recall, recall};
pub use save::{Format, save};
pub use search::{Neighbours, search};
