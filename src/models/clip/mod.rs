//! Dual encoders of images and texts, trained so that matching pairs have similar features:
//! [CLIP](https://arxiv.org/abs/2103.00020) and, at a fixed resolution, [SigLIP](https://arxiv.org/abs/2303.15343) and
//! [SigLIP 2](https://arxiv.org/abs/2502.14786).
//!
//! | tower | CLIP | `SigLIP` |
//! |---|---|---|
//! | images | class token, norm before the blocks | attention pooling with a learned query |
//! | texts | causal; the state of the last token | all positions see each other; the state of the last position |
//! | projections | of both towers | of texts, with a bias |
//!
//! Parameters have the names of Hugging Face's checkpoints; those of `open_clip` are mapped to them.

mod config;
mod encoder;
mod layout;
mod loading;
mod model;
pub mod open_clip;
pub mod open_clip_config;
mod pooling;
mod positions;
mod text;
mod vision;

pub use config::{Kind, TowerConfig};
pub use loading::{create, load, read_config};
pub use model::{Clip, normalized};
pub use positions::Interpolation;
pub use text::TextBatch;
