//! Embedding lookup in a quantized table.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::{Format, PackedWeight, weights};
use crate::embedding::row_indices;
use crate::error::MlxResult;
use crate::gemm::Rows as _;
use crate::mlx::apply::apply;
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext};
use crate::runtime::disjoint::parallel_chunks;
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut, with_floats};
use crate::runtime::scratch;

/// Looks up the rows `ids`: `[...]` of a quantized table and dequantizes them to `[..., columns]` in `dtype`.
///
/// # Errors
/// Arrays of the table that do not match its format.
pub fn embedding(table: PackedWeight, ids: &Array, dtype: Dtype) -> MlxResult<Array> {
    let (_, columns) = table.shape()?;
    if !on_cpu() {
        let take = |array: &Array| array.take_axis(ids, 0);
        let (codes, scales) = (take(table.codes)?, take(table.scales)?);
        let biases = table.biases.map(take).transpose()?;
        let taken = PackedWeight { codes: &codes, scales: &scales, biases: biases.as_ref(), ..table };
        return super::dequantize(taken, dtype);
    }
    let ids = match ids.dtype() {
        Dtype::Uint32 | Dtype::Int32 => ids.clone(),
        _ => ids.as_dtype(Dtype::Int32)?,
    };
    let mut shape = ids.shape().to_vec();
    shape.push(columns as i32);
    let inputs: Vec<_> = [&ids].into_iter().chain(table.operands()).collect();
    apply(Embedding { format: table.format }, &inputs, &shape, dtype)
}

struct Embedding {
    format: Format,
}

impl HostOp for Embedding {
    const NAME: &'static CStr = c"EatQuantizedEmbedding";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let table = weights(self.format, &inputs[1..]);
        let (vocab, columns) = table.shape();
        let rows = row_indices(&inputs[0], vocab as i32);
        with_floats!(SliceMut, &mut outputs[0].data, out => {
            parallel_chunks(out, columns, |index, out| {
                let mut wide = scratch::take(columns);
                table.read(Isa::current(), rows[index] as usize, 0..columns, &mut wide);
                crate::runtime::element::Element::narrow(&wide, out);
            });
        });
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        Err(Exception::custom("a packed table has no gradient"))
    }
}
