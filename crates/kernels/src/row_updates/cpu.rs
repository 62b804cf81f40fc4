//! CPU kernel: each update reads its rows and matrices only.

use std::ffi::CStr;
use std::ops::Range;

use mlx_rs::Array;

use super::RowUpdate;
use crate::error::MlxResult;
use crate::gemm::{Dense, Lanes, Packed, matrix, multiply, precision, store};
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::disjoint::Disjoint;
use crate::runtime::element::{Element, widened};
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::operand::{Operand, OperandMut, Slice, with_floats};
use crate::runtime::pool::parallel_for;
use crate::runtime::scratch::{self, Scratch};

/// Rows up to which matrices are better read as they are.
const FEW: usize = 8;
/// Rows of one task.
const STEP: usize = 4;
/// Ranks that are summed at once.
const LANES: usize = 8;

/// Inputs `x`, the outputs of the layers, and the arrays of the updates.
pub(super) struct Updates {
    layers: usize,
    updates: Vec<Slots>,
}

/// Where the operands of an update stand among the inputs.
struct Slots {
    layer: usize,
    rows: Range<usize>,
    a: usize,
    b: usize,
    scale: f32,
    rank: usize,
    factor: Option<usize>,
    bias: Option<usize>,
}

impl Updates {
    /// The node with its inputs.
    pub(super) fn new<'a>(
        x: &'a Array,
        outputs: &'a [Array],
        updates: &[RowUpdate<'a>],
    ) -> (Vec<&'a Array>, Self) {
        let mut inputs: Vec<&Array> = std::iter::once(x).chain(outputs).collect();
        let mut put = |array| {
            inputs.push(array);
            inputs.len() - 1
        };
        let slots = |update: &RowUpdate<'a>| Slots {
            layer: update.layer,
            rows: update.rows.clone(),
            a: put(update.low_rank.a),
            b: put(update.low_rank.b),
            scale: update.low_rank.scale,
            rank: update.low_rank.a.dim(1) as usize,
            factor: update.magnitude.map(|magnitude| put(magnitude.factor)),
            bias: update.magnitude.and_then(|magnitude| magnitude.bias).map(&mut put),
        };
        let updates = updates.iter().map(slots).collect();
        (inputs, Self { layers: outputs.len(), updates })
    }
}

impl HostOp for Updates {
    const NAME: &'static CStr = c"EatRowUpdates";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        with_floats!(Slice, inputs[0].data, x => self.run(x, inputs, outputs));
    }

    fn vjp(&self, _: &VjpContext, _: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

impl Updates {
    fn run<T: Element>(&self, x: &[T], inputs: &[Operand], outputs: &mut [OperandMut]) {
        let isa = Isa::current();
        let targets: Vec<Disjoint<T>> = (inputs[1..=self.layers].iter().zip(outputs))
            .map(|(y, output)| {
                let output = T::of_mut(&mut output.data);
                output.copy_from_slice(T::of(&y.data));
                Disjoint::new(output)
            })
            .collect();
        let (few, many): (Vec<&Slots>, Vec<&Slots>) =
            self.updates.iter().partition(|slots| slots.rows.len() <= FEW);
        let tasks: Vec<(&Slots, Range<usize>)> = (few.into_iter())
            .flat_map(|slots| {
                let Range { start, end } = slots.rows;
                (start..end).step_by(STEP).map(move |first| (slots, first..end.min(first + STEP)))
            })
            .collect();
        parallel_for(tasks.len(), |task| {
            let (slots, rows) = &tasks[task];
            Update::new(isa, slots, inputs, &targets[slots.layer]).direct(x, rows.clone());
        });
        for slots in many {
            Update::new(isa, slots, inputs, &targets[slots.layer]).blocked(x);
        }
    }
}

/// One update with its operands.
struct Update<'a, T> {
    isa: Isa,
    slots: &'a Slots,
    inputs: &'a [Operand<'a>],
    target: &'a Disjoint<'a, T>,
    /// Numbers of a row of `x` and of the target.
    columns: [usize; 2],
    factor: Option<Scratch<f32>>,
    bias: Option<Scratch<f32>>,
}

impl<'a, T: Element> Update<'a, T> {
    fn new(isa: Isa, slots: &'a Slots, inputs: &'a [Operand<'a>], target: &'a Disjoint<'a, T>) -> Self {
        let wide = |slot: Option<usize>| slot.map(|slot| widened(&inputs[slot].data));
        let columns = [&inputs[slots.a].shape[0], &inputs[slots.b].shape[1]].map(|&dim| dim as usize);
        Self { isa, slots, inputs, target, columns, factor: wide(slots.factor), bias: wide(slots.bias) }
    }

    /// Some rows, one after the other.
    fn direct(&self, x: &[T], rows: Range<usize>) {
        let (isa, rank, [width, outputs]) = (self.isa, self.slots.rank, self.columns);
        let copies;
        let [a, b] = match [self.slots.a, self.slots.b].map(|slot| self.inputs[slot].data) {
            [Slice::F32(a), Slice::F32(b)] => [a, b],
            other => {
                copies = other.map(|slice| widened(&slice));
                [&*copies[0], &*copies[1]]
            }
        };
        let (mut x_row, mut u) = (scratch::take(width), scratch::take(rank));
        let mut low = scratch::take(outputs);
        for row in rows {
            T::widen(&x[row * width..(row + 1) * width], &mut x_row);
            project(isa, &x_row, a, &mut u);
            expand(isa, &u, self.slots.scale, b, &mut low);
            self.add(row, 0, &low);
        }
    }

    /// All rows, as products of matrices.
    fn blocked(&self, x: &[T]) {
        let (isa, rank, [width, _]) = (self.isa, self.slots.rank, self.columns);
        let (first, rows) = (self.slots.rows.start, self.slots.rows.len());
        let precision = precision(&self.inputs[0]);
        let x = Dense::new(&x[first * width..(first + rows) * width], (rows, width));
        let x = Packed::new(isa, precision, Lanes::rows(&x));
        let mut u = scratch::take::<f32>(rows * rank);
        let shared = Disjoint::new(&mut u);
        let a = matrix(&self.inputs[self.slots.a]);
        multiply(isa, &[(&x, Lanes::columns(&*a))], |tile| store(isa, tile, None, &shared, rank));
        u.iter_mut().for_each(|u| *u *= self.slots.scale);
        let u = Packed::new(isa, precision, Lanes::rows(&Dense::new(&u, (rows, rank))));
        let b = matrix(&self.inputs[self.slots.b]);
        multiply(isa, &[(&u, Lanes::columns(&*b))], |mut tile| {
            for i in 0..tile.rows {
                let (row, column) = (first + tile.row + i, tile.column);
                self.add(row, column, tile.row_mut(i));
            }
        });
    }

    /// Adds `low` to the target from `column` of `row` on, and applies the magnitude.
    fn add(&self, row: usize, column: usize, low: &[f32]) {
        let start = row * self.columns[1] + column;
        // SAFETY: updates of a layer have different rows, tasks have different rows of an update, and tiles of a product
        // do not overlap.
        let y = unsafe { self.target.part(start..start + low.len()) };
        let columns = column..column + low.len();
        let factor = self.factor.as_ref().map_or(&[][..], |factor| &factor[columns.clone()]);
        let bias = self.bias.as_ref().map_or(&[][..], |bias| &bias[columns]);
        finish(self.isa, low, factor, bias, y, &mut scratch::take(low.len()));
    }
}

vectorized! {
    /// `u = x·A`; `A` is `[in, rank]`.
    pub(super) fn project(x: &[f32], a: &[f32], u: &mut [f32]) {
        let rank = u.len();
        for (block, u) in u.chunks_mut(LANES).enumerate() {
            let rows = a.chunks_exact(rank).map(|row| &row[block * LANES..]);
            if let Ok(u) = <&mut [f32; LANES]>::try_from(&mut *u) {
                // Additions to one sum wait for each other.
                let mut sums = [[0.0; LANES]; 4];
                for (i, (x, row)) in x.iter().zip(rows).enumerate() {
                    for (sum, a) in sums[i % 4].iter_mut().zip(&row[..LANES]) {
                        *sum += x * a;
                    }
                }
                for (j, u) in u.iter_mut().enumerate() {
                    *u = (sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]);
                }
            } else {
                u.fill(0.0);
                for (x, row) in x.iter().zip(rows) {
                    for (u, a) in u.iter_mut().zip(row) {
                        *u += x * a;
                    }
                }
            }
        }
    }

    /// `low = s·u·B`; `B` is `[rank, out]`.
    pub(super) fn expand(u: &[f32], scale: f32, b: &[f32], low: &mut [f32]) {
        let outputs = low.len();
        low.fill(0.0);
        let (quads, rest) = u.as_chunks::<4>();
        let (b_quads, b_rest) = b.split_at(quads.len() * 4 * outputs);
        for (u, b) in quads.iter().zip(b_quads.chunks_exact((4 * outputs).max(1))) {
            let u = u.map(|u| u * scale);
            let (first, second) = b.split_at(2 * outputs);
            let ((b0, b1), (b2, b3)) = (first.split_at(outputs), second.split_at(outputs));
            for ((((low, b0), b1), b2), b3) in low.iter_mut().zip(b0).zip(b1).zip(b2).zip(b3) {
                *low += (u[0] * b0 + u[1] * b1) + (u[2] * b2 + u[3] * b3);
            }
        }
        for (u, b) in rest.iter().zip(b_rest.chunks_exact(outputs.max(1))) {
            for (low, b) in low.iter_mut().zip(b) {
                *low += u * scale * b;
            }
        }
    }

    /// `y += low`, or `y = f ∘ (y - b + low) + b`.
    fn finish<T: Element>(low: &[f32], factor: &[f32], bias: &[f32], y: &mut [T], wide: &mut [f32]) {
        T::widen(y, wide);
        for (y, bias) in wide.iter_mut().zip(bias) {
            *y -= bias;
        }
        for (y, low) in wide.iter_mut().zip(low) {
            *y += low;
        }
        for (y, factor) in wide.iter_mut().zip(factor) {
            *y *= factor;
        }
        for (y, bias) in wide.iter_mut().zip(bias) {
            *y += bias;
        }
        T::narrow(wide, y);
    }
}
