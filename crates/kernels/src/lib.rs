//! Differentiable operations on MLX arrays, with CPU kernels in Rust and MLX's own kernels on GPUs.
//!
//! Each operation is one folder: definition and shapes, dispatch by device, a reference composed of MLX operations, and
//! the CPU kernel. Callers do not see which implementation ran. Below the operations are `gemm` and [`blas`] (matrix
//! products), `runtime` (threads, working memory, instruction sets, number formats; no MLX) and `mlx` (graph nodes,
//! evaluation, compilation, devices, memory, process groups).
//!
//! | operation | CPU | GPU and reference |
//! |---|---|---|
//! | [`linears`](linear::linears) | all layers with the same input in one node, bias and low-rank terms included | composition |
//! | [`update_rows`](row_updates::update_rows) | low-rank updates that differ by row, in one node | composition |
//! | [`attention`](attention::attention) | blocks of keys, no score matrix; forward and backward | `mlx::fast::scaled_dot_product_attention` |
//! | [`rope`](rope::rope) | queries and keys in one pass, angles in f64 | `mlx::fast::rope` |
//! | [`cached_attention`](cached_attention::cached_attention) | `RoPE`, cache update and attention in one node | composition |
//! | [`append`](append::append) | new rows written in place | `mlx` slice update |
//! | [`rms_norm`](norm::rms_norm), [`residual_rms_norm`](norm::residual_rms_norm), [`layer_norm`](norm::layer_norm) | one pass over memory, f32 inside | `mlx::fast::rms_norm`, `mlx::fast::layer_norm` |
//! | [`activate`](activation::activate), [`gated`](activation::gated) | one pass over memory, f32 inside | composition |
//! | [`softcap`](softcap::softcap) | composition | composition |
//! | [`softmax`](softmax::softmax) | f32 inside | `mlx::softmax` |
//! | [`embedding`](embedding::embedding) | rows copied; gradient accumulated by ranges of rows | `mlx::take` |
//! | [`cross_entropy`](cross_entropy::cross_entropy) | one pass over the vocabulary in chunks, never all logits at once | composition |
//! | [`adamw`](adamw::adamw), [`squared_norm`](adamw::squared_norm) | many tensors in one pass over memory | composition |
//! | [`map_logits`](chunked_logits::map_logits) | any function of the logits of a head, some positions at a time | composition |
//! | [`quantized`] layers | quantized weights, read once without dequantizing the matrix | `mlx::quantized_matmul` |
//! | [`sparse`] layers | a bit per place and the numbers that are not zero, read once | unpacked |
//! | [`updates`] of many clients | f64 inside, sorting networks over columns | – |
//! | [`matmul`](matmul::matmul) | blocked product, f32 accumulation; bf16 products for bf16 | `mlx::matmul` |
//! | [`conv1d`](conv::conv1d), [`conv2d`](conv::conv2d) | implicit im2col and a blocked product; a direct loop for depthwise convolutions | `mlx::conv1d`, `mlx::conv2d` |
//!
//! Only this crate and `mlx-sys` contain `unsafe` code.

pub mod activation;
pub mod adamw;
pub mod append;
pub mod attention;
pub mod blas;
pub mod cached_attention;
pub mod chunked_logits;
pub mod conv;
pub mod cross_entropy;
pub mod embedding;
pub mod linear;
pub mod matmul;
pub mod measure;
pub mod norm;
pub mod quantized;
pub mod rope;
pub mod row_updates;
pub mod softcap;
pub mod softmax;
pub mod sparse;
pub mod updates;

mod bitmask;
mod error;
mod gemm;
mod mlx;
mod runtime;
#[cfg(test)]
mod testing;

pub use error::{Error, Result};
pub use mlx::device::on_cpu;
pub use mlx::eval::{async_eval, eval};
pub use mlx::pages::use_large_pages;
pub use mlx::{checkpoint, graphs, group, memory, tape};
pub use runtime::check::check_environment;
pub use runtime::isa::Isa;
pub use runtime::pool::threads;
