//! One error for the whole engine. A variant tells what the caller can do about it;
//! the message names the file, line or key at fault and what would be right.

use std::path::{Path, PathBuf};

use mlx_rs::error::Exception;

/// Result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what mends it. Python sees one exception class per variant.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting has an impossible value: change the configuration.
    #[error("{0}")]
    Config(String),
    /// The data cannot be read or holds nothing to train on: change the data.
    #[error("{0}")]
    Dataset(String),
    /// The device cannot do this: use another one or a smaller job.
    #[error("{0}")]
    Hardware(String),
    /// An installed library is missing or of the wrong version: reinstall it.
    #[error("{0}")]
    Dependency(String),
    /// A checkpoint, tokenizer or adapter is broken or of an unknown kind.
    #[error("{0}")]
    ModelLoading(String),
    /// Training could not go on; the last checkpoint is intact.
    #[error("{0}")]
    Training(String),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read", "write", "create", …
        action: &'static str,
        /// The file or folder at fault.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The observer asked to stop (Ctrl-C, or a callback that raised).
    #[error("interrupted")]
    Interrupted,
    /// MLX refused an operation: a defect of this crate, or memory ran out.
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
    /// For `map_err`: gives an I/O error its path and the action that failed.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.as_ref().to_owned(), source }
    }

    /// Whether a smaller job could succeed: MLX found no memory for an array.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        // What the allocators of the CPU, of Metal and of CUDA say.
        const SIGNS: [&str; 3] = ["Unable to allocate", "out of memory", "maximum allowed buffer size"];
        matches!(self, Self::Mlx(error) if SIGNS.iter().any(|sign| error.what().contains(sign)))
    }
}
