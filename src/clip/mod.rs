//! Image–text models: features, retrieval and search, and contrastive fine-tuning.

mod config;
mod dataset;
mod encode;
mod load;
mod loader;
mod loss;
mod recall;
mod run;
mod save;
mod search;
mod task;

pub use config::{ClipConfig, Method, Tower};
pub use dataset::DataReport;
pub use encode::{encode_images, encode_pixels, encode_texts};
pub use load::{LoadConfig, Processor, load, load_adapter};
pub use loss::LossKind;
pub use recall::{Recall, recall};
pub use run::{Report, check_output, run, validate};
pub use save::{Format, save};
pub use search::{Neighbours, search};
