//! The threads of rayon, which work on everything but MLX arrays.

use std::error::Error as _;
use std::sync::OnceLock;

use crate::{Error, Result};

/// Starts the threads, once. Without them rayon's first loop would panic.
///
/// # Errors
/// [`Error::Hardware`] if the system has no room for them.
pub fn start() -> Result<()> {
    static REFUSED: OnceLock<Option<String>> = OnceLock::new();
    let refused = REFUSED.get_or_init(|| match rayon::ThreadPoolBuilder::new().build_global() {
        // Threads that are there already are not an error of the system, which would have a source.
        Err(error) => error.source().map(ToString::to_string),
        Ok(()) => None,
    });
    match refused {
        None => Ok(()),
        Some(reason) => Err(Error::Hardware(format!(
            "the system does not start the threads for reading data ({reason}): raise the limit of memory or \
             processes (ulimit -v, ulimit -u), or set RAYON_NUM_THREADS=1"
        ))),
    }
}
