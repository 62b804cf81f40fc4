//! Runtime of the CPU kernels, independent of MLX: thread pool, working memory, instruction sets, number formats.

pub(crate) mod check;
pub(crate) mod disjoint;
pub(crate) mod element;
mod environment;
pub(crate) mod isa;
pub(crate) mod math;
pub(crate) mod operand;
pub(crate) mod pool;
pub(crate) mod reduce;
pub(crate) mod scratch;
