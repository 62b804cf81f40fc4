//! The error type of the engine. A variant tells what the caller can do about it; the message names the file, line
//! or key at fault and the valid values.

use std::path::{Path, PathBuf};

use mlx_rs::error::Exception;

/// Result type of fallible functions of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error type. Python raises one exception class per variant.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting has an invalid value.
    #[error("{0}")]
    Config(String),
    /// The data cannot be read or contain no training examples.
    #[error("{0}")]
    Dataset(String),
    /// The device does not support the operation or has too little memory.
    #[error("{0}")]
    Hardware(String),
    /// An installed library is missing or has the wrong version.
    #[error("{0}")]
    Dependency(String),
    /// A model folder, tokenizer or adapter is damaged or not supported.
    #[error("{0}")]
    ModelLoading(String),
    /// Training failed; the last checkpoint is intact.
    #[error("{0}")]
    Training(String),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation that failed, such as "read", "write" or "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The observer stopped the work (Ctrl-C, or an exception in a callback).
    #[error("interrupted")]
    Interrupted,
    /// MLX raised an error: a bug of this crate, or out of memory.
    #[error("MLX: {0}")]
    Mlx(#[from] Exception),
}

impl From<kernels::Error> for Error {
    fn from(error: kernels::Error) -> Self {
        match error {
            kernels::Error::Config(message) => Self::Config(message),
            kernels::Error::Hardware(message) => Self::Hardware(message),
            kernels::Error::Mlx(exception) => Self::Mlx(exception),
        }
    }
}

impl Error {
    /// Returns a function for `map_err` that adds the path and the failed operation to an I/O error.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.as_ref().to_owned(), source }
    }

    /// Whether memory ran out, so that a smaller job could succeed.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        // What the allocators of the CPU, of Metal and of CUDA say.
        const SIGNS: [&str; 3] = ["Unable to allocate", "out of memory", "maximum allowed buffer size"];
        let message = match self {
            Self::Mlx(error) => error.what(),
            // A kernel whose working memory could not be had.
            Self::Hardware(message) => message,
            _ => return false,
        };
        SIGNS.iter().any(|sign| message.contains(sign))
    }
}
