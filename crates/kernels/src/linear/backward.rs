//! Gradients of a group of linear layers, all in one node.
//!
//! With `u = s·x·A` from the forward pass and `du = s·dy·Bᵀ`:
//!
//! ```text
//! dx = Σ dyᵢ·Wᵢ + duᵢ·Aᵢᵀ     dA = xᵀ·du     dB = uᵀ·dy     dW = dyᵀ·x     db = Σ rows of dy
//! ```

use std::ffi::CStr;
use std::ops::Range;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::Slots;
use super::low_rank::{scaled, scales};
use crate::error::MlxResult;
use crate::gemm::{Dense, Lanes, Packed, Rows, Tile, matrix, multiply, precision, store};
use crate::mlx::apply::apply_many;
use crate::mlx::op::no_gradient;
use crate::mlx::op::{HostOp, VjpContext};
use crate::runtime::disjoint::Disjoint;
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::operand::with_floats;
use crate::runtime::operand::{Operand, OperandMut, Slice};
use crate::runtime::pool::parallel_ranges;
use crate::runtime::scratch;

/// What one output of the node is; the number is that of the layer.
#[derive(Debug, Clone, Copy)]
enum Gradient {
    Input,
    Weight(usize),
    Bias(usize),
    A(usize),
    B(usize),
}

struct Gradients {
    layers: Vec<Slots>,
    wanted: Vec<Gradient>,
    /// Where the gradients of the outputs begin among the inputs.
    cotangents: usize,
}

/// Builds the node for the inputs `argnums` of the forward node.
pub(super) fn gradients(layers: &[Slots], ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
    let wanted: Vec<_> = argnums.iter().map(|&n| kind(layers, n)).collect::<MlxResult<_>>()?;
    let shapes: Vec<(&[i32], Dtype)> =
        argnums.iter().map(|&n| (ctx.inputs[n].shape(), ctx.inputs[n].dtype())).collect();
    let low = ctx.outputs.get(layers.len());
    let inputs: Vec<_> = ctx.inputs.iter().chain(&ctx.cotangents[..layers.len()]).chain(low).collect();
    let op = Gradients { layers: layers.to_vec(), wanted, cotangents: ctx.inputs.len() };
    apply_many(op, &inputs, &shapes)
}

fn kind(layers: &[Slots], argnum: usize) -> MlxResult<Gradient> {
    if argnum == 0 {
        return Ok(Gradient::Input);
    }
    let of_layer = |(i, layer): (usize, &Slots)| {
        let low = layer.low_rank;
        match argnum {
            n if n == layer.weight.first && layer.weight.is_dense() => Some(Gradient::Weight(i)),
            n if Some(n) == layer.bias => Some(Gradient::Bias(i)),
            n if Some(n) == low.map(|low| low.a) => Some(Gradient::A(i)),
            n if Some(n) == low.map(|low| low.b) => Some(Gradient::B(i)),
            _ => None,
        }
    };
    let found = layers.iter().enumerate().find_map(of_layer);
    found.ok_or_else(|| {
        Exception::custom(format!("linear: input {argnum} has no gradient; packed weights never have one"))
    })
}

impl HostOp for Gradients {
    const NAME: &'static CStr = c"EatLinearGradient";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let pass = Pass::new(self, inputs);
        for (gradient, output) in self.wanted.iter().zip(outputs) {
            with_floats!(SliceMut, &mut output.data, out => match *gradient {
                Gradient::Input => pass.input(out),
                Gradient::Weight(layer) => pass.weight(layer, out),
                Gradient::Bias(layer) => pass.bias(layer, out),
                Gradient::A(layer) => pass.a(layer, out),
                Gradient::B(layer) => pass.b(layer, out),
            });
        }
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

/// What several of the gradients need.
struct Pass<'a> {
    isa: Isa,
    layers: &'a [Slots],
    inputs: &'a [Operand<'a>],
    x: Box<dyn Rows + 'a>,
    dys: Vec<Box<dyn Rows + 'a>>,
    packed_dys: Vec<Packed>,
    /// `u` of all layers side by side.
    low: &'a [f32],
    /// `du`, laid out as `u`.
    dlow: scratch::Scratch<f32>,
    rank: usize,
}

impl<'a> Pass<'a> {
    fn new(op: &'a Gradients, inputs: &'a [Operand<'a>]) -> Self {
        let (isa, layers) = (Isa::current(), op.layers.as_slice());
        let dys: Vec<_> = inputs[op.cotangents..][..layers.len()].iter().map(matrix).collect();
        let precision = precision(&inputs[0]);
        let packed_dys: Vec<_> =
            dys.iter().map(|dy| Packed::new(isa, precision, Lanes::rows(&**dy))).collect();
        let low = match inputs.get(op.cotangents + layers.len()) {
            Some(Operand { data: Slice::F32(low), .. }) => *low,
            _ => &[],
        };
        let rank = layers.iter().map(Slots::rank).sum();
        let mut dlow = scratch::take(low.len());
        let scales = scales(layers);
        let out = Disjoint::new(&mut dlow);
        for (i, layer) in layers.iter().enumerate() {
            let (Some(slots), columns) = (layer.low_rank, low_columns(layers, i)) else { continue };
            let b = matrix(&inputs[slots.b]);
            multiply(isa, &[(&packed_dys[i], Lanes::rows(&*b))], |mut tile| {
                tile.column += columns.start;
                store(isa, scaled(tile, &scales), None, &out, rank);
            });
        }
        Self { isa, layers, inputs, x: matrix(&inputs[0]), dys, packed_dys, low, dlow, rank }
    }

    fn rows(&self) -> usize {
        self.x.shape().0
    }

    /// Columns of `u` or `du` that belong to `layer`.
    fn low<'b>(&self, low: &'b [f32], layer: usize) -> Dense<'b, f32> {
        Dense::new(low, (self.rows(), self.rank)).columns(low_columns(self.layers, layer))
    }

    fn input<T: Element>(&self, out: &mut [T]) {
        let precision = precision(&self.inputs[0]);
        let weights: Vec<_> = self.layers.iter().map(|layer| layer.weight.rows(self.inputs)).collect();
        let low: Vec<_> = (0..self.layers.len())
            .filter_map(|i| {
                let slots = self.layers[i].low_rank?;
                let dlow = Packed::new(self.isa, precision, Lanes::rows(&self.low(&self.dlow, i)));
                Some((dlow, matrix(&self.inputs[slots.a])))
            })
            .collect();
        let dense = self.packed_dys.iter().zip(&weights).map(|(dy, weight)| (dy, Lanes::columns(&**weight)));
        let terms: Vec<_> = dense.chain(low.iter().map(|(dlow, a)| (dlow, Lanes::rows(&**a)))).collect();
        let (out, columns) = (Disjoint::new(out), self.x.shape().1);
        multiply(self.isa, &terms, |tile| store(self.isa, tile, None, &out, columns));
    }

    fn weight<T: Element>(&self, layer: usize, out: &mut [T]) {
        let dy = Packed::new(self.isa, precision(&self.inputs[0]), Lanes::columns(&*self.dys[layer]));
        let (out, columns) = (Disjoint::new(out), self.x.shape().1);
        multiply(self.isa, &[(&dy, Lanes::columns(&*self.x))], |tile| {
            store(self.isa, tile, None, &out, columns);
        });
    }

    fn bias<T: Element>(&self, layer: usize, out: &mut [T]) {
        let (isa, dy) = (self.isa, &self.dys[layer]);
        let shared = Disjoint::new(out);
        parallel_ranges(shared.len(), 64, |columns| {
            let mut sums = scratch::take::<f32>(columns.len());
            let mut row = scratch::take::<f32>(columns.len());
            sums.fill(0.0);
            for i in 0..self.rows() {
                dy.read(isa, i, columns.clone(), &mut row);
                add(isa, &row, &mut sums);
            }
            // SAFETY: ranges of one call do not overlap.
            T::narrow(&sums, unsafe { shared.part(columns) });
        });
    }

    /// Computed as `duᵀ·x`, so that the long axis is the one the kernel vectorises.
    fn a<T: Element>(&self, layer: usize, out: &mut [T]) {
        let dlow = self.low(&self.dlow, layer);
        let rank = dlow.shape().1;
        let dlow = Packed::new(self.isa, precision(&self.inputs[0]), Lanes::columns(&dlow));
        let out = Disjoint::new(out);
        multiply(self.isa, &[(&dlow, Lanes::columns(&*self.x))], |tile| store_transposed(tile, &out, rank));
    }

    fn b<T: Element>(&self, layer: usize, out: &mut [T]) {
        let low = self.low(self.low, layer);
        let low = Packed::new(self.isa, precision(&self.inputs[0]), Lanes::columns(&low));
        let dy = &self.dys[layer];
        let (out, columns) = (Disjoint::new(out), dy.shape().1);
        multiply(self.isa, &[(&low, Lanes::columns(&**dy))], |tile| {
            store(self.isa, tile, None, &out, columns);
        });
    }
}

/// Columns of all low-rank parts side by side that belong to `layer`.
fn low_columns(layers: &[Slots], layer: usize) -> Range<usize> {
    let start = layers[..layer].iter().map(Slots::rank).sum();
    start..start + layers[layer].rank()
}

/// The transpose of `tile` goes to its place in a matrix of `columns` columns.
fn store_transposed<T: Element>(mut tile: Tile, matrix: &Disjoint<T>, columns: usize) {
    for j in 0..tile.columns {
        let start = (tile.column + j) * columns + tile.row;
        // SAFETY: tiles of one product do not overlap.
        let place = unsafe { matrix.part(start..start + tile.rows) };
        for (i, place) in place.iter_mut().enumerate() {
            *place = T::from_f32(tile.row_mut(i)[j]);
        }
    }
}

vectorized! {
    fn add(row: &[f32], sums: &mut [f32]) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
}
