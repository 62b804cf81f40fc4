//! Operations with a kernel of our own on the CPU and MLX's on every GPU.
//!
//! Each operation is one folder: what it computes and its shapes, the choice by
//! device, the MLX composition and the CPU kernel. Callers never learn which ran.
//!
//! | operation | CPU | GPU and reference |
//! |---|---|---|
//! | [`linears`](linear::linears) | layers of one input in one node, bias and low rank included | composition |
//! | [`attention`](attention::attention) | blocks of keys, no matrix of scores, own gradient | `mlx::fast::scaled_dot_product_attention` |
//! | [`rope`](rope::rope) | queries and keys in one pass, angles in f64 | `mlx::fast::rope` |
//! | [`cached_attention`](cached_attention::cached_attention) | the three around a cache in one node | composition |
//! | [`append`](append::append) | new rows written in place | `mlx` slice update |
//! | [`rms_norm`](norm::rms_norm), [`residual_rms_norm`](norm::residual_rms_norm), [`layer_norm`](norm::layer_norm) | one pass over memory, f32 inside | `mlx::fast::rms_norm`, `mlx::fast::layer_norm` |
//! | [`gated`](activation::gated) | one pass over memory, f32 inside | composition |
//! | [`softcap`](softcap::softcap) | composition | composition |
//! | [`softmax`](softmax::softmax) | f32 inside | `mlx::softmax` |
//! | [`embedding`](embedding::embedding) | rows copied; the gradient by ranges of the table | `mlx::take` |
//! | [`cross_entropy`](cross_entropy::cross_entropy) | one walk over the vocabulary, never all logits | composition |
//! | [`adamw`](adamw::adamw), [`squared_norm`](adamw::squared_norm) | many tensors in one pass over memory | composition |
//! | [`quantized`] layers | packed weights, read once, as they are | `mlx::quantized_matmul` |
//! | [`matmul`](matmul::matmul) | blocks in panels, f32 accumulation; bf16 products for bf16 | `mlx::matmul` |
//! | [`conv1d`](conv::conv1d), [`conv2d`](conv::conv2d) | a blocked product that packs from the pixels; a direct loop where channels do not mix | `mlx::conv1d`, `mlx::conv2d` |
//!
//! `unsafe` code stands here and in `mlx-sys` only.

pub mod activation;
pub mod adamw;
pub mod append;
pub mod attention;
pub mod blas;
pub mod cached_attention;
pub mod conv;
pub mod cross_entropy;
pub mod embedding;
pub mod linear;
pub mod matmul;
pub mod measure;
pub mod norm;
pub mod quantized;
pub mod rope;
pub mod softcap;
pub mod softmax;

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
pub use runtime::isa::Isa;
pub use runtime::pool::threads;
