//! Operations with a kernel of our own on the CPU and MLX's on every GPU.
//!
//! Each operation is one folder: what it computes and its shapes, the choice by
//! device, the MLX composition and the CPU kernel. Callers never learn which ran.
//!
//! | operation | CPU | GPU and reference |
//! |---|---|---|
//! | [`matmul`](matmul::matmul) | `gemm` crate, all cores, f32 accumulation | `mlx::matmul` |
//! | [`append`](append::append) | new rows written in place | `mlx` slice update |
//! | [`attention`](attention::attention) | blocks of keys, no matrix of scores, own gradient | `mlx::fast::scaled_dot_product_attention` |
//! | [`rope`](rope::rope) | queries and keys in one pass, angles in f64 | `mlx::fast::rope` |
//!
//! This is the only room of the crate with `unsafe` code.

pub mod append;
pub mod attention;
pub mod cross_entropy;
pub mod linear;
pub mod matmul;
pub mod rope;

mod device;
mod disjoint;
mod element;
mod gemm;
mod isa;
mod math;
mod op;
mod pool;
mod scratch;

pub use device::on_cpu;
pub use isa::Isa;
pub use op::eval;
pub use pool::threads;
