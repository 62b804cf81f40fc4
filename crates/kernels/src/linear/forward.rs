//! `y = x·Wᵀ + b + u·B` with `u = s·x·A`.

use std::ffi::CStr;

use mlx_rs::Array;

use super::low_rank::{scaled, scales};
use super::weight::{self, Product};
use super::{Slots, backward};
use crate::error::MlxResult;
use crate::gemm::{ConcatColumns, Dense, Lanes, Packed, Precision, matrix, multiply, precision, store};
use crate::mlx::op::{HostOp, VjpContext};
use crate::quantized::Accuracy;
use crate::runtime::disjoint::Disjoint;
use crate::runtime::element::{Element as _, narrow_to, widened};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut, with_floats};
use crate::runtime::scratch::{self, Scratch};

pub(super) struct Forward {
    pub layers: Vec<Slots>,
    /// How products with packed weights are computed; `None` for as exactly as the format of `x` allows.
    pub accuracy: Option<Accuracy>,
}

impl HostOp for Forward {
    const NAME: &'static CStr = c"EatLinear";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let isa = Isa::current();
        let x = matrix(&inputs[0]);
        let rows = x.shape().0;
        let (accuracy, precision) = self.accuracy(&inputs[0]);
        let rank: usize = self.layers.iter().map(Slots::rank).sum();
        let (outputs, low) = outputs.split_at_mut(self.layers.len());
        let mut products = self.direct(isa, accuracy, inputs, rows);
        let blocked = rank > 0 || products.iter().any(Option::is_none);
        let packed = blocked.then(|| Packed::new(isa, precision, Lanes::rows(&*x)));
        let low = low.first_mut().zip(packed.as_ref()).map(|(output, x)| {
            let low = f32::of_mut(&mut output.data);
            project(isa, x, &self.layers, inputs, low);
            &*low
        });
        let mut first = 0;
        for ((layer, output), product) in self.layers.iter().zip(outputs).zip(&mut products) {
            let bias = layer.bias.map(|slot| widened(&inputs[slot].data));
            let low_rank = layer.low_rank.zip(low).map(|(slots, low)| {
                let own = Dense::new(low, (rows, rank)).columns(first..first + slots.rank);
                first += slots.rank;
                (Packed::new(isa, precision, Lanes::rows(&own)), matrix(&inputs[slots.b]))
            });
            let low_rank = low_rank.as_ref().map(|(low, b)| (low, Lanes::columns(&**b)));
            let weight = layer.weight.rows(inputs);
            let columns = weight.shape().0;
            if let Some(y) = product {
                add_to(isa, y, columns, low_rank, bias.as_deref());
                narrow_to(y, &mut output.data);
            } else if let Some(x) = &packed {
                let terms: Vec<_> = [(x, Lanes::rows(&*weight))].into_iter().chain(low_rank).collect();
                with_floats!(SliceMut, &mut output.data, y => {
                    let y = Disjoint::new(y);
                    multiply(isa, &terms, |tile| store(isa, tile, bias.as_deref(), &y, columns));
                });
            }
        }
    }

    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        backward::gradients(&self.layers, ctx, argnums)
    }
}

impl Forward {
    /// `x·Wᵀ`, wide, of the layers for which a blocked product is not better: `[rows, columns]` each.
    fn direct(
        &self,
        isa: Isa,
        accuracy: Accuracy,
        inputs: &[Operand],
        rows: usize,
    ) -> Vec<Option<Scratch<f32>>> {
        let room = |layer: &Slots| {
            let is_direct = layer.weight.is_direct(isa, accuracy, rows);
            is_direct.then(|| scratch::take(rows * layer.weight.rows(inputs).shape().0))
        };
        let mut all: Vec<_> = self.layers.iter().map(room).collect();
        let products = self.layers.iter().zip(&mut all);
        let products: Vec<_> = products
            .filter_map(|(layer, y)| y.as_deref_mut().map(|y| Product { weight: layer.weight, y }))
            .collect();
        if !products.is_empty() {
            weight::multiply(isa, accuracy, &widened(&inputs[0].data), inputs, products);
        }
        all
    }

    /// Of products with packed weights, and of all blocked products of the group.
    fn accuracy(&self, x: &Operand) -> (Accuracy, Precision) {
        let own = precision(x);
        let exact = if own == Precision::Bf16 { Accuracy::Bf16 } else { Accuracy::F32 };
        let accuracy = self.accuracy.unwrap_or(exact);
        let quantized = self.layers.iter().all(|layer| layer.weight.is_quantized());
        (accuracy, if quantized { accuracy.precision() } else { own })
    }
}

/// Adds the low-rank part and the bias to `y`, row-major with `columns` columns.
fn add_to(isa: Isa, y: &mut [f32], columns: usize, low_rank: Option<(&Packed, Lanes)>, bias: Option<&[f32]>) {
    if let Some(term) = low_rank {
        let shared = Disjoint::new(y);
        multiply(isa, &[term], |mut tile| {
            for i in 0..tile.rows {
                let start = (tile.row + i) * columns + tile.column;
                // SAFETY: tiles of one product do not overlap.
                let place = unsafe { shared.part(start..start + tile.columns) };
                place.iter_mut().zip(tile.row_mut(i)).for_each(|(y, x)| *y += *x);
            }
        });
    }
    if let Some(bias) = bias {
        for row in y.chunks_exact_mut(columns.max(1)) {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }
}

/// `low = x·[s₁A₁ s₂A₂ …]`: `[rows, Σ rank]`
fn project(isa: Isa, x: &Packed, layers: &[Slots], inputs: &[Operand], low: &mut [f32]) {
    let parts: Vec<_> = layers.iter().filter_map(|layer| layer.low_rank).collect();
    let matrices: Vec<_> = parts.iter().map(|slots| matrix(&inputs[slots.a])).collect();
    let side_by_side = ConcatColumns(matrices.iter().map(|matrix| &**matrix).collect());
    let scales = scales(layers);
    let out = Disjoint::new(low);
    multiply(isa, &[(x, Lanes::columns(&side_by_side))], |tile| {
        store(isa, scaled(tile, &scales), None, &out, scales.len());
    });
}
