//! Environment variables of the CPU kernels.

use super::isa::Isa;
use super::pool;
use crate::error::{Error, Result};

/// Checks the environment variables that the kernels read when they first run.
///
/// # Errors
/// [`Error::Config`] with the variable, its value and the valid values.
pub fn check_environment() -> Result<()> {
    Isa::requested()?;
    pool::requested_threads()?;
    Ok(())
}

/// Reads an environment variable; one that is empty counts as not set. `parse` returns the valid values as its error.
pub(super) fn requested<T>(name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>> {
    let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.to_string_lossy();
    let refused = |expected| {
        Error::Config(format!("the environment variable {name} is {value:?}, expected {expected}"))
    };
    parse(value.trim()).map(Some).map_err(refused)
}
