//! Operands of nodes as matrices of a product.

use super::{Dense, Precision, Rows};
use crate::runtime::operand::{Operand, Slice, with_floats};

/// How products with `x` are computed.
pub(crate) fn precision(x: &Operand) -> Precision {
    match x.data {
        Slice::Bf16(_) => Precision::Bf16,
        _ => Precision::F32,
    }
}

/// All dimensions but the last as rows.
pub(crate) fn matrix<'a>(operand: &Operand<'a>) -> Box<dyn Rows + 'a> {
    let columns = operand.shape.last().map_or(1, |&dim| dim as usize);
    with_floats!(Slice, operand.data, data => {
        Box::new(Dense::new(data, (data.len() / columns.max(1), columns)))
    })
}
