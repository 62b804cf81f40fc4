//! Layers: plain structs with an inherent `forward`, whose field names are the keys of
//! a checkpoint.

pub mod cache;
pub mod embedding;
pub mod linear;
pub mod norm;
pub mod rope;

pub use cache::{Cache, KvCache};
pub use embedding::Embedding;
pub use linear::{Linear, LowRank};
pub use norm::RmsNorm;
pub use rope::Rope;

/// What `forward` of every layer returns.
pub type Result<T> = std::result::Result<T, mlx_rs::error::Exception>;

/// `x · sigmoid(x)` ([SiLU](https://arxiv.org/abs/1702.03118)), shape kept.
///
/// # Errors
/// What MLX raises.
pub fn silu(x: &mlx_rs::Array) -> Result<mlx_rs::Array> {
    // `mlx_rs::nn::silu` is a compiled function, and MLX compiles on CPUs by running g++.
    x.multiply(mlx_rs::ops::sigmoid(x)?)
}
