//! Matrices and precision of node operands.

use super::{Dense, Precision, Rows};
use crate::runtime::operand::{Operand, Slice, with_floats};

/// Precision of products with activations `x`: bf16 for bf16, otherwise f32.
pub(crate) fn precision(x: &Operand) -> Precision {
    match x.data {
        Slice::Bf16(_) => Precision::Bf16,
        _ => Precision::F32,
    }
}

/// View of `operand` as a matrix: leading dimensions are flattened into rows.
pub(crate) fn matrix<'a>(operand: &Operand<'a>) -> Box<dyn Rows + 'a> {
    let columns = operand.shape.last().map_or(1, |&dim| dim as usize);
    with_floats!(Slice, operand.data, data => {
        Box::new(Dense::new(data, (data.len() / columns.max(1), columns)))
    })
}
