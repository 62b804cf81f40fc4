//! Embedding lookup.
//!
//! | operand | shape |
//! |---|---|
//! | `table` | `[vocab, hidden]` |
//! | `ids` | `[...]`, integers below `vocab` |
//! | result | `[..., hidden]` in the dtype of `table` |
//!
//! The gradient of the table is accumulated in f32 in the order of `ids`; threads own ranges of rows, so the result is
//! deterministic.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::error::MlxResult;
use crate::mlx::apply::apply;
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::element::{Element, with_element};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut, Slice};

mod cpu;

/// Looks up the rows `ids` of `table`. See the [module](self) for shapes.
///
/// An id out of range is an error of [`eval`](crate::eval()) on the CPU and undetected on GPUs.
///
/// # Errors
/// A table that is not two-dimensional.
pub fn embedding(table: &Array, ids: &Array) -> MlxResult<Array> {
    let float = matches!(table.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if !on_cpu() || !float {
        return reference(table, ids);
    }
    let &[_, hidden] = table.shape() else {
        return Err(Exception::custom(format!("embedding: a table of shape {:?}", table.shape())));
    };
    let ids = match ids.dtype() {
        Dtype::Uint32 | Dtype::Int32 => ids.clone(),
        _ => ids.as_dtype(Dtype::Int32)?,
    };
    let mut shape = ids.shape().to_vec();
    shape.push(hidden);
    apply(Embedding, &[table, &ids], &shape, table.dtype())
}

/// Reference implementation composed of MLX operations.
///
/// # Errors
/// An exception raised by MLX.
pub fn reference(table: &Array, ids: &Array) -> MlxResult<Array> {
    table.take_axis(ids, 0)
}

struct Embedding;

impl HostOp for Embedding {
    const NAME: &'static CStr = c"EatEmbedding";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (table, hidden) = (&inputs[0].data, inputs[0].shape[1] as usize);
        let rows = row_indices(&inputs[1], inputs[0].shape[0]);
        with_element!(table, T => cpu::gather(hidden, T::of(table), &rows, T::of_mut(&mut outputs[0].data)));
    }

    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let [table, ids] = [&ctx.inputs[0], &ctx.inputs[1]];
        if argnums != [0] {
            return no_gradient(Self::NAME);
        }
        Ok(vec![apply(EmbeddingBackward, &[ids, &ctx.cotangents[0]], table.shape(), table.dtype())?])
    }
}

/// Inputs `ids` and the gradient of the result; output the gradient of the table.
struct EmbeddingBackward;

impl HostOp for EmbeddingBackward {
    const NAME: &'static CStr = c"EatEmbeddingBackward";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (grad, hidden) = (&inputs[1].data, outputs[0].shape[1] as usize);
        let rows = row_indices(&inputs[0], outputs[0].shape[0]);
        with_element!(grad, T => {
            cpu::scatter_add(Isa::current(), hidden, &rows, T::of(grad), T::of_mut(&mut outputs[0].data));
        });
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

/// Converts `ids` to row indices below `vocab`.
///
/// # Panics
/// If an id is out of range.
pub(super) fn row_indices(ids: &Operand, vocab: i32) -> Vec<u32> {
    let vocab = vocab.unsigned_abs();
    let checked = |id: i64| match u32::try_from(id) {
        Ok(row) if row < vocab => row,
        _ => panic!("token id {id} is out of range: the table has {vocab} rows"),
    };
    match ids.data {
        Slice::U32(ids) => ids.iter().map(|&id| checked(i64::from(id))).collect(),
        Slice::I32(ids) => ids.iter().map(|&id| checked(i64::from(id))).collect(),
        _ => unreachable!("kernels check dtypes before they build a node"),
    }
}

#[cfg(test)]
mod tests;
