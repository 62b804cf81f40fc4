//! The loss and the gradient of the hidden states, in one pass over the vocabulary.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::problem::{Problem, TOKENS};
use super::{Options, head};
use crate::error::MlxResult;
use crate::gemm::{Lanes, Packed, Rows, multiply};
use crate::linear::WeightSlot;
use crate::mlx::op::{HostOp, VjpContext};
use crate::runtime::disjoint::{Disjoint, parallel_chunks};
use crate::runtime::element::Element;
use crate::runtime::isa::vectorized;
use crate::runtime::math::exp;
use crate::runtime::operand::{Operand, OperandMut, SliceMut, with_floats};
use crate::runtime::pool::parallel_for;
use crate::runtime::reduce::max;
use crate::runtime::scratch;

/// Positions at once: with [`TOKENS`] their logits take 4 MiB.
const POSITIONS: usize = 1024;

pub(super) struct Loss {
    pub options: Options,
    pub head: WeightSlot,
}

impl HostOp for Loss {
    const NAME: &'static CStr = c"EatCrossEntropy";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let problem = Problem::new(inputs, self.head, self.options.smoothing);
        let [loss, gradients @ ..] = outputs else { return };
        let mut gradients = match gradients {
            [hidden, logsumexps] => {
                with_floats!(SliceMut, &mut hidden.data, hidden => hidden.fill(Element::from_f32(0.0)));
                floats_mut(logsumexps).fill(0.0);
                Some((hidden, floats_mut(logsumexps)))
            }
            _ => None,
        };
        let losses = floats_mut(loss);
        let time = problem.weights.len() / losses.len().max(1);
        let mut sums = vec![0.0; losses.len()];
        for positions in problem.positions.chunks(POSITIONS) {
            let walk = problem.walk(positions, gradients.is_some());
            for (row, &position) in walk.rows.iter().zip(positions) {
                sums[position / time] += f64::from(problem.weights[position]) * row.loss(&problem);
            }
            if let Some((hidden, logsumexps)) = &mut gradients {
                with_floats!(SliceMut, &mut hidden.data, hidden => problem.finish(&walk, positions, hidden));
                for (row, &position) in walk.rows.iter().zip(positions) {
                    logsumexps[position] = row.max + row.sum.ln();
                }
            }
        }
        for (loss, sum) in losses.iter_mut().zip(sums) {
            *loss = sum as f32;
        }
    }

    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let [_, hidden, logsumexps] = ctx.outputs.as_slice() else {
            return Err(Exception::custom("cross-entropy: built without a gradient"));
        };
        let cotangent = &ctx.cotangents[0];
        let gradient = |&argnum: &usize| match argnum {
            0 => hidden.multiply(cotangent.as_dtype(hidden.dtype())?.expand_dims_axes(&[-2, -1])?),
            n if n == self.head.first && self.head.is_dense() => {
                head::gradient(self.head, &ctx.inputs, logsumexps, cotangent, self.options.smoothing)
            }
            _ => Err(Exception::custom("cross-entropy: only the input and a dense head have gradients")),
        };
        argnums.iter().map(gradient).collect()
    }
}

/// Running statistics of one position.
#[derive(Clone, Copy)]
struct Row {
    /// Largest logit so far.
    max: f32,
    /// Sum of `exp(logit - max)`.
    sum: f32,
    /// Sum of the logits, for label smoothing.
    logits: f64,
    /// Logit of the target.
    target: f32,
}

impl Row {
    fn loss(&self, problem: &Problem) -> f64 {
        let smoothing = f64::from(problem.smoothing);
        let total = f64::from(self.max) + f64::from(self.sum).ln();
        let uniform = self.logits / problem.vocab() as f64;
        (1.0 - smoothing) * (total - f64::from(self.target)) + smoothing * (total - uniform)
    }
}

/// The state after all of the vocabulary.
struct Walk {
    rows: Vec<Row>,
    /// Σ exp(logit - max) · head, one row per position; empty without a gradient.
    gradient: scratch::Scratch<f32>,
}

impl Problem<'_> {
    fn walk(&self, positions: &[usize], gradient: bool) -> Walk {
        let (isa, width) = (self.isa, self.hidden.shape().1);
        let hidden = Packed::new(isa, self.precision, Lanes::rows(&self.picked(positions)));
        let start = Row { max: f32::NEG_INFINITY, sum: 0.0, logits: 0.0, target: 0.0 };
        let mut rows = vec![start; positions.len()];
        let mut sums = scratch::take::<f32>(if gradient { positions.len() * width } else { 0 });
        sums.fill(0.0);
        let mut logits = scratch::take::<f32>(positions.len() * TOKENS.min(self.vocab()));
        for first in (0..self.vocab()).step_by(TOKENS) {
            let chunk = self.chunk(first);
            let tokens = chunk.shape().0;
            let logits = &mut logits[..positions.len() * tokens];
            self.logits(&hidden, &chunk, logits);
            let (shared, shared_sums, shared_rows) =
                (Disjoint::new(logits), Disjoint::new(&mut sums), Disjoint::new(&mut rows));
            parallel_for(positions.len(), |i| {
                // SAFETY: each task has the row of its index.
                let (line, row) =
                    unsafe { (shared.part(i * tokens..(i + 1) * tokens), shared_rows.part(i..i + 1)) };
                let row = &mut row[0];
                let target = self.targets[positions[i]] as usize;
                if let Some(&logit) = target.checked_sub(first).and_then(|place| line.get(place)) {
                    row.target = logit;
                }
                if self.smoothing > 0.0 {
                    row.logits += line.iter().map(|&x| f64::from(x)).sum::<f64>();
                }
                let max = largest(isa, line).max(row.max);
                let before = std::mem::replace(&mut row.max, max);
                let shrink = exp(before - max);
                row.sum = row.sum * shrink + exponentials(isa, line, max);
                if gradient && max > before {
                    // SAFETY: as above.
                    scale(isa, unsafe { shared_sums.part(i * width..(i + 1) * width) }, shrink);
                }
            });
            if gradient {
                let shares = crate::gemm::Dense::new(&*logits, (positions.len(), tokens));
                let shares = Packed::new(isa, self.precision, Lanes::rows(&shares));
                let sums = Disjoint::new(&mut sums);
                multiply(isa, &[(&shares, Lanes::columns(&chunk))], |mut tile| {
                    for i in 0..tile.rows {
                        let start = (tile.row + i) * width + tile.column;
                        // SAFETY: tiles of one product do not overlap.
                        let place = unsafe { sums.part(start..start + tile.columns) };
                        add(isa, place, tile.row_mut(i), 1.0);
                    }
                });
            }
        }
        Walk { rows, gradient: sums }
    }

    /// Writes `weight · (Σ softmax · head - (1-ε)·head[target] - ε·mean of head)` to the rows of `positions`.
    fn finish<T: Element>(&self, walk: &Walk, positions: &[usize], gradient: &mut [T]) {
        let (isa, width) = (self.isa, self.hidden.shape().1);
        let mean = if self.smoothing > 0.0 { self.mean() } else { vec![0.0; width] };
        let out = Disjoint::new(gradient);
        parallel_for(positions.len(), |i| {
            let (row, position) = (&walk.rows[i], positions[i]);
            let weight = self.weights[position];
            let mut line = scratch::take::<f32>(2 * width);
            let (line, target) = line.split_at_mut(width);
            self.head.read(isa, self.targets[position] as usize, 0..width, target);
            line.copy_from_slice(&walk.gradient[i * width..(i + 1) * width]);
            scale(isa, line, weight / row.sum);
            add(isa, line, target, -weight * (1.0 - self.smoothing));
            add(isa, line, &mean, -weight * self.smoothing);
            // SAFETY: positions differ from each other.
            T::narrow(line, unsafe { out.part(position * width..(position + 1) * width) });
        });
    }

    /// Mean of the head's rows.
    fn mean(&self) -> Vec<f32> {
        let mut mean = vec![0.0; self.head.shape().1];
        parallel_chunks(&mut mean, 64, |index, mean| {
            let mut row = scratch::take::<f32>(mean.len());
            for token in 0..self.vocab() {
                self.head.read(self.isa, token, index * 64..index * 64 + mean.len(), &mut row);
                add(self.isa, mean, &row, 1.0 / self.vocab() as f32);
            }
        });
        mean
    }
}

fn floats_mut<'a>(output: &'a mut OperandMut) -> &'a mut [f32] {
    match &mut output.data {
        SliceMut::F32(data) => data,
        _ => unreachable!("the loss is f32"),
    }
}

/// Independent sums, so that the compiler may use vectors.
const LANES: usize = 32;

vectorized! {
    fn largest(row: &[f32]) -> f32 {
        max(row)
    }

    /// Replaces each `x` by `exp(x - max)`; their sum.
    fn exponentials(row: &mut [f32], max: f32) -> f32 {
        let mut sums = [0.0; LANES];
        let (chunks, rest) = row.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = exp(*x - max);
                *sum += *x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *x = exp(*x - max);
            *sum += *x;
        }
        sums.iter().sum()
    }

    fn scale(row: &mut [f32], factor: f32) {
        for x in row {
            *x *= factor;
        }
    }

    fn add(row: &mut [f32], other: &[f32], factor: f32) {
        for (x, other) in row.iter_mut().zip(other) {
            *x += factor * other;
        }
    }
}
