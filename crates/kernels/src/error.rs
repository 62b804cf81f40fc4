//! What can go wrong in an operation.

use mlx_rs::error::Exception;

/// Result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Result of operations of MLX.
pub(crate) type MlxResult<T> = std::result::Result<T, Exception>;

/// What went wrong, by what mends it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Sizes or formats that are impossible: change the request.
    #[error("{0}")]
    Config(String),
    /// The device cannot do this.
    #[error("{0}")]
    Hardware(String),
    /// MLX refused an operation, or memory ran out.
    #[error("MLX: {0}")]
    Mlx(#[from] Exception),
}
