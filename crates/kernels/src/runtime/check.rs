//! Check of the environment variables of the CPU kernels.

use super::isa::Isa;
use super::pool;
use crate::error::Result;

/// Checks the environment variables that the kernels read when they first run.
///
/// # Errors
/// [`Error::Config`] with the variable, its value and the valid values.
pub fn check_environment() -> Result<()> {
    Isa::requested()?;
    pool::requested_threads()?;
    Ok(())
}
