//! The gradient of a trained head: a second pass over the vocabulary that recomputes the logits.

use std::ffi::CStr;

use mlx_rs::Array;

use super::problem::{Problem, TOKENS};
use crate::error::MlxResult;
use crate::gemm::{Dense, Lanes, Packed, Rows, multiply, store};
use crate::linear::WeightSlot;
use crate::mlx::apply::apply;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::disjoint::{Disjoint, parallel_chunks};
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::math::exp;
use crate::runtime::operand::{Operand, OperandMut, Slice, with_floats};
use crate::runtime::scratch;

struct HeadGradient {
    head: WeightSlot,
    smoothing: f32,
}

/// `Σ cotangent · weight · (softmax - (1-ε)·onehot - ε/vocab)ᵀ · hidden` in the shape and
/// dtype of the head, with one cotangent per row.
pub(super) fn gradient(
    head: WeightSlot,
    inputs: &[Array],
    logsumexps: &Array,
    cotangent: &Array,
    smoothing: f32,
) -> MlxResult<Array> {
    let weight = &inputs[head.first];
    let inputs: Vec<_> = inputs.iter().chain([logsumexps, cotangent]).collect();
    apply(HeadGradient { head, smoothing }, &inputs, weight.shape(), weight.dtype())
}

impl HostOp for HeadGradient {
    const NAME: &'static CStr = c"EatCrossEntropyHeadGradient";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (Slice::F32(logsumexps), Slice::F32(cotangent)) = (inputs[4].data, inputs[5].data) else {
            unreachable!("both are f32");
        };
        let problem = Problem::new(inputs, self.head, self.smoothing);
        with_floats!(SliceMut, &mut outputs[0].data, out => walk(&problem, logsumexps, cotangent, out));
    }

    fn vjp(&self, _ctx: &VjpContext, _argnums: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

fn walk<T: Element>(problem: &Problem, logsumexps: &[f32], cotangent: &[f32], out: &mut [T]) {
    let isa = Isa::current();
    let positions = &problem.positions;
    let time = problem.weights.len() / cotangent.len().max(1);
    let hidden = problem.picked(positions);
    let width = hidden.shape().1;
    let packed = Packed::new(isa, problem.precision, Lanes::rows(&hidden));
    let mut logits = scratch::take::<f32>(positions.len() * TOKENS.min(problem.vocab()));
    for first in (0..problem.vocab()).step_by(TOKENS) {
        let chunk = problem.chunk(first);
        let tokens = chunk.shape().0;
        let logits = &mut logits[..positions.len() * tokens];
        problem.logits(&packed, &chunk, logits);
        parallel_chunks(logits, tokens, |i, line| {
            let position = positions[i];
            let weight = cotangent[position / time] * problem.weights[position];
            let uniform = weight * problem.smoothing / problem.vocab() as f32;
            shares(isa, line, logsumexps[position], weight, uniform);
            let target = (problem.targets[position] as usize).checked_sub(first);
            if let Some(x) = target.and_then(|place| line.get_mut(place)) {
                *x -= weight * (1.0 - problem.smoothing);
            }
        });
        let shares = Dense::new(&*logits, (positions.len(), tokens));
        let shares = Packed::new(isa, problem.precision, Lanes::columns(&shares));
        let place = Disjoint::new(&mut out[first * width..(first + tokens) * width]);
        multiply(isa, &[(&shares, Lanes::columns(&hidden))], |tile| store(isa, tile, None, &place, width));
    }
}

vectorized! {
    fn shares(row: &mut [f32], total: f32, weight: f32, uniform: f32) {
        for x in row {
            *x = weight * exp(*x - total) - uniform;
        }
    }
}
