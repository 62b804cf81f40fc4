//! Reading of environment variables.

use crate::error::{Error, Result};

/// Reads an environment variable; one that is empty counts as not set. `parse` returns the valid values as its error.
pub(super) fn requested<T>(name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>> {
    let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.to_string_lossy();
    let refused = |expected| {
        Error::Config(format!("the environment variable {name} is {value:?}, expected {expected}"))
    };
    parse(value.trim()).map(Some).map_err(refused)
}
