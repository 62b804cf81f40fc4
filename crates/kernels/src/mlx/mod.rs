//! Binding of kernels to MLX: graph nodes, evaluation, recorded and compiled graphs, devices, memory, process groups.

pub mod checkpoint;
pub mod graphs;
pub mod group;
pub mod memory;
pub mod tape;

pub(crate) mod apply;
mod buffer;
mod closure;
pub(crate) mod device;
pub(crate) mod eval;
pub(crate) mod op;
pub(crate) mod pages;
