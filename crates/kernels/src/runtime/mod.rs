//! What CPU kernels stand on, without MLX: threads, working memory, instruction sets and number formats.

pub(crate) mod disjoint;
pub(crate) mod element;
pub(crate) mod isa;
pub(crate) mod math;
pub(crate) mod operand;
pub(crate) mod pool;
pub(crate) mod reduce;
pub(crate) mod scratch;
