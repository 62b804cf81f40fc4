//! Raw bindings of mlx-c 0.7.0, linked to the `libmlx` that the installed `mlx`
//! Python wheel carries. The crate replaces the published `mlx-sys` through
//! `[patch.crates-io]`; see `README.md` for the why and the how.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals)]
#![allow(clippy::all, clippy::pedantic)]

#[cfg(not(target_arch = "aarch64"))]
mod half;
#[cfg(not(target_arch = "aarch64"))]
pub use half::*;

pub mod info;

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// The MLX version whose headers this crate was compiled against.
pub const MLX_VERSION: &str = env!("MLX_HEADER_VERSION");
