//! Layers: plain structs with an inherent `forward`, whose field names are the keys of
//! a checkpoint.

pub mod cache;
pub mod embedding;
pub mod linear;
pub mod norm;
pub mod packed;
pub mod residual;
pub mod rope;

pub use cache::{Cache, KvCache};
pub use embedding::Embedding;
pub use linear::{Linear, LowRank};
pub use norm::RmsNorm;
pub use residual::Residual;
pub use rope::Rope;

/// What `forward` of every layer returns.
pub type Result<T> = std::result::Result<T, mlx_rs::error::Exception>;
