//! Errors of operations.

use mlx_rs::error::Exception;

/// Result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Result of building a node: MLX's own exception type, so that operations compose inside MLX transforms.
pub(crate) type MlxResult<T> = std::result::Result<T, Exception>;

/// Error of an operation, classified by how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Invalid sizes or formats in a request.
    #[error("{0}")]
    Config(String),
    /// Failure of the device, such as a panic in a CPU kernel.
    #[error("{0}")]
    Hardware(String),
    /// Exception raised by MLX, including out-of-memory.
    #[error("MLX: {0}")]
    Mlx(#[from] Exception),
}
