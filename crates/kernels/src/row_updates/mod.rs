//! Low-rank updates that differ by row, of linear layers that share an input, as several adapters in one batch need them
//! ([Punica](https://arxiv.org/abs/2310.18547), [S-LoRA](https://arxiv.org/abs/2311.03285)): `y` of the rows of an update
//! becomes `y + s·(x·A)·B`, or `f ∘ (y - b + s·(x·A)·B) + b` with a magnitude; other rows stay as they are.
//!
//! | operand | shape |
//! |---|---|
//! | `x` | `[..., in]`; the leading dimensions, flattened, are the rows |
//! | `y` | `[..., out]`, in the dtype of `x`, one per layer |
//! | `A`, `B` | `[in, rank]`, `[rank, out]` |
//! | `f`, `b` | `[out]` |
//!
//! On the CPU all updates of a group of layers are one node, which has no gradient.

use std::ops::Range;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexOp as _;

use crate::error::MlxResult;
use crate::linear::{LowRank, is_float};
use crate::mlx::apply::apply_many;
use crate::mlx::device::on_cpu;

mod cpu;

/// The update of some rows in one layer.
#[derive(Debug, Clone)]
pub struct RowUpdate<'a> {
    /// Number of the layer.
    pub layer: usize,
    /// Its rows; in each layer those of one update come after those of the one before.
    pub rows: Range<usize>,
    /// `s·(x·A)·B`
    pub low_rank: LowRank<'a>,
    /// Magnitude, if it has one.
    pub magnitude: Option<Magnitude<'a>>,
}

/// Rescaling of outputs ([DoRA](https://arxiv.org/abs/2402.09353)).
#[derive(Debug, Clone, Copy)]
pub struct Magnitude<'a> {
    /// Factor `f` of each output.
    pub factor: &'a Array,
    /// Bias `b` of the layer, which is not rescaled.
    pub bias: Option<&'a Array>,
}

/// Applies `updates` to `outputs`, those of linear layers for `x`. See the [module](self) for shapes.
///
/// # Errors
/// Incompatible shapes, or rows that overlap.
pub fn update_rows(x: &Array, outputs: &[Array], updates: &[RowUpdate]) -> MlxResult<Vec<Array>> {
    check(x, outputs, updates)?;
    let arrays = |update: &RowUpdate<'_>| {
        let magnitude = update.magnitude.map(|magnitude| [Some(magnitude.factor), magnitude.bias]);
        let magnitude = magnitude.into_iter().flatten().flatten().all(is_float);
        is_float(update.low_rank.a) && is_float(update.low_rank.b) && magnitude
    };
    let is_uniform = outputs.iter().all(|y| y.dtype() == x.dtype());
    if !on_cpu() || !is_float(x) || !is_uniform || !updates.iter().all(arrays) {
        return reference(x, outputs, updates);
    }
    let (inputs, op) = cpu::Updates::new(x, outputs, updates);
    let shapes: Vec<_> = outputs.iter().map(|y| (y.shape(), y.dtype())).collect();
    apply_many(op, &inputs, &shapes)
}

/// Reference implementation composed of MLX operations.
///
/// # Errors
/// Incompatible shapes.
pub fn reference(x: &Array, outputs: &[Array], updates: &[RowUpdate]) -> MlxResult<Vec<Array>> {
    let flat = |x: &Array| x.reshape(&[-1, x.dim(-1)]);
    let part = |x: &Array, rows: Range<usize>| flat(x)?.try_index(rows.start as i32..rows.end as i32);
    let one = |(layer, y): (usize, &Array)| {
        let (mut parts, mut end) = (Vec::new(), 0);
        for RowUpdate { rows, low_rank: LowRank { a, b, scale }, magnitude, .. } in
            updates.iter().filter(|update| update.layer == layer)
        {
            parts.push(part(y, end..rows.start)?);
            let low = part(x, rows.clone())?.as_dtype(a.dtype())?.matmul(a)?.matmul(b)?;
            let low = low.multiply(Array::from_f32(*scale).as_dtype(low.dtype())?)?;
            let mut updated = part(y, rows.clone())?;
            match magnitude {
                None => updated = updated.add(low.as_dtype(y.dtype())?)?,
                Some(Magnitude { factor, bias }) => {
                    let bias = bias.map_or_else(|| Array::from_f32(0.0), Array::clone);
                    updated = updated.subtract(&bias)?.add(low)?.multiply(factor)?.add(&bias)?;
                }
            }
            parts.push(updated.as_dtype(y.dtype())?);
            end = rows.end;
        }
        parts.push(part(y, end..y.size() / y.dim(-1).unsigned_abs().max(1) as usize)?);
        concatenate(&parts, 0)?.reshape(y.shape())
    };
    outputs.iter().enumerate().map(one).collect()
}

fn check(x: &Array, outputs: &[Array], updates: &[RowUpdate]) -> MlxResult<()> {
    let fail = |message: String| Err(Exception::custom(format!("row updates: {message}")));
    let lead = x.shape().split_last().map(|(_, lead)| lead);
    if let Some(y) = outputs.iter().find(|y| y.shape().split_last().map(|(_, lead)| lead) != lead) {
        return fail(format!("an input {:?} and an output {:?} have other rows", x.shape(), y.shape()));
    }
    let rows: usize = lead.unwrap_or_default().iter().map(|&dim| dim.unsigned_abs() as usize).product();
    let mut ends = vec![0; outputs.len()];
    for RowUpdate { layer, rows: own, low_rank: LowRank { a, b, .. }, magnitude } in updates {
        let (Some(end), Some(y)) = (ends.get_mut(*layer), outputs.get(*layer)) else {
            return fail(format!("there is no layer {layer}"));
        };
        if own.start < *end || own.end < own.start || own.end > rows {
            return fail(format!("rows {own:?} after {end}, of {rows}"));
        }
        *end = own.end;
        let (inputs, outputs) = (x.dim(-1), y.dim(-1));
        if a.ndim() != 2 || a.dim(0) != inputs || b.shape() != [a.dim(1), outputs] {
            let (a, b) = (a.shape(), b.shape());
            return fail(format!("A {a:?} and B {b:?} do not fit a layer [{outputs}, {inputs}]"));
        }
        let per_output = magnitude.map(|magnitude| [Some(magnitude.factor), magnitude.bias]);
        let misfit = per_output.into_iter().flatten().flatten().find(|array| array.shape() != [outputs]);
        if let Some(array) = misfit {
            return fail(format!("a magnitude {:?} of {outputs} outputs", array.shape()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
