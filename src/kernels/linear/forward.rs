//! `y = x·Wᵀ + b + u·B` with `u = s·x·A`.

use std::ffi::CStr;

use mlx_rs::Array;

use super::super::disjoint::Disjoint;
use super::super::gemm::{Dense, Lanes, Packed, Precision, Rows, SideBySide, Tile, multiply, store};
use super::super::isa::Isa;
use super::super::op::{Backward, HostOp, MlxResult, Operand, OperandMut, Slice, SliceMut, with_floats};
use super::Slots;
use super::backward;

pub(super) struct Forward {
    pub layers: Vec<Slots>,
}

impl HostOp for Forward {
    const NAME: &'static CStr = c"EatLinear";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let isa = Isa::current();
        let x = matrix(&inputs[0]);
        let packed = Packed::new(isa, precision(&inputs[0]), Lanes::rows(&*x));
        let (outputs, low) = outputs.split_at_mut(self.layers.len());
        let low = low.first_mut().map(|output| match &mut output.data {
            SliceMut::F32(low) => &**project(isa, &packed, &self.layers, inputs, low),
            _ => unreachable!("the low-rank output is f32"),
        });
        let rank: usize = self.layers.iter().map(Slots::rank).sum();
        let rows = x.shape().0;
        let mut first = 0;
        for (layer, output) in self.layers.iter().zip(outputs) {
            let weight = matrix(&inputs[layer.weight]);
            let bias = layer.bias.map(|slot| wide(&inputs[slot]));
            let mut terms = vec![(&packed, Lanes::rows(&*weight))];
            let low_rank = layer.low_rank.zip(low).map(|(slots, low)| {
                let own = Dense::new(low, (rows, rank)).columns(first..first + slots.rank);
                first += slots.rank;
                (Packed::new(isa, precision(&inputs[0]), Lanes::rows(&own)), matrix(&inputs[slots.b]))
            });
            if let Some((low, b)) = &low_rank {
                terms.push((low, Lanes::columns(&**b)));
            }
            let columns = weight.shape().0;
            with_floats!(SliceMut, &mut output.data, y => {
                let y = Disjoint::new(y);
                multiply(isa, &terms, |tile| store(isa, tile, bias.as_deref(), &y, columns));
            });
        }
    }

    fn vjp(&self, pass: &Backward, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        backward::gradients(&self.layers, pass, argnums)
    }
}

/// `low = x·[s₁A₁ s₂A₂ …]`: `[rows, Σ rank]`
fn project<'a, 'b>(
    isa: Isa,
    x: &Packed,
    layers: &[Slots],
    inputs: &[Operand],
    low: &'b mut &'a mut [f32],
) -> &'b mut &'a mut [f32] {
    let parts: Vec<_> = layers.iter().filter_map(|layer| layer.low_rank).collect();
    let matrices: Vec<_> = parts.iter().map(|slots| matrix(&inputs[slots.a])).collect();
    let side_by_side = SideBySide(matrices.iter().map(|matrix| &**matrix).collect());
    let scales = scales(layers);
    let out = Disjoint::new(low);
    multiply(isa, &[(x, Lanes::columns(&side_by_side))], |tile| {
        store(isa, scaled(tile, &scales), None, &out, scales.len());
    });
    low
}

/// The scale of each column of all low-rank parts side by side.
pub(super) fn scales(layers: &[Slots]) -> Vec<f32> {
    let parts = layers.iter().filter_map(|layer| layer.low_rank);
    parts.flat_map(|slots| std::iter::repeat_n(slots.scale, slots.rank)).collect()
}

/// `tile` with each column times its scale.
pub(super) fn scaled<'a>(mut tile: Tile<'a>, scales: &[f32]) -> Tile<'a> {
    let scales = &scales[tile.column..tile.column + tile.columns];
    for i in 0..tile.rows {
        for (x, scale) in tile.row_mut(i).iter_mut().zip(scales) {
            *x *= scale;
        }
    }
    tile
}

/// How products with `x` are computed.
pub(in crate::kernels) fn precision(x: &Operand) -> Precision {
    match x.data {
        Slice::Bf16(_) => Precision::Bf16,
        _ => Precision::F32,
    }
}

/// All dimensions but the last as rows.
pub(in crate::kernels) fn matrix<'a>(operand: &Operand<'a>) -> Box<dyn Rows + 'a> {
    let columns = operand.shape.last().map_or(1, |&dim| dim as usize);
    with_floats!(Slice, operand.data, data => {
        Box::new(Dense::new(data, (data.len() / columns.max(1), columns)))
    })
}

/// The elements as f32.
fn wide(operand: &Operand) -> Vec<f32> {
    let row = matrix(operand);
    let mut wide = vec![0.0; row.shape().1];
    row.read(Isa::current(), 0, 0..wide.len(), &mut wide);
    wide
}
