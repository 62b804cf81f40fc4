//! A matrix as a bit per place, which tells whether a number is stored there, and the stored numbers one after the other.

pub(crate) mod codes;
pub(crate) mod expand;
#[cfg(target_arch = "x86_64")]
mod expand_avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod expand_avx512;
mod fill;
pub(crate) mod layout;

pub(crate) use codes::SparseCodes;
pub(crate) use layout::{Layout, Storage};
