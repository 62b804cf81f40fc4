//! Operands of the loss and of the gradient of the head, and the logits of a chunk of the vocabulary.

use crate::gemm::{GatheredRows, Lanes, Packed, Precision, Rows, matrix, multiply, precision, store};
use crate::linear::WeightSlot;
use crate::runtime::disjoint::Disjoint;
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, Slice};

/// Tokens of the vocabulary at once.
pub(super) const TOKENS: usize = 1024;

/// The operands of a node.
pub(super) struct Problem<'a> {
    pub isa: Isa,
    pub precision: Precision,
    pub hidden: Box<dyn Rows + 'a>,
    pub head: Box<dyn Rows + 'a>,
    pub targets: &'a [u32],
    pub weights: &'a [f32],
    pub smoothing: f32,
    /// Those of a weight above 0.
    pub positions: Vec<usize>,
}

impl<'a> Problem<'a> {
    pub(super) fn new(inputs: &[Operand<'a>], head: WeightSlot, smoothing: f32) -> Self {
        let (Slice::U32(targets), Slice::F32(weights)) = (inputs[1].data, inputs[2].data) else {
            unreachable!("targets and weights were cast");
        };
        let head = head.rows(inputs);
        let vocab = head.shape().0;
        let positions: Vec<_> = (0..weights.len()).filter(|&i| weights[i] != 0.0).collect();
        let beyond = positions.iter().find(|&&i| targets[i] as usize >= vocab);
        assert!(beyond.is_none(), "target {} of a vocabulary of {vocab}", targets[beyond.map_or(0, |&i| i)]);
        let precision = precision(&inputs[0]);
        let hidden = matrix(&inputs[0]);
        Self { isa: Isa::current(), precision, hidden, head, targets, weights, smoothing, positions }
    }

    pub(super) fn vocab(&self) -> usize {
        self.head.shape().0
    }

    /// The hidden rows of `positions`.
    pub(super) fn picked<'b>(&'b self, positions: &'b [usize]) -> impl Rows + 'b {
        GatheredRows { matrix: &*self.hidden, rows: positions.len(), map: |i: usize| positions[i] }
    }

    /// The head's rows of the tokens from `first` on.
    pub(super) fn chunk(&self, first: usize) -> impl Rows + '_ {
        let rows = TOKENS.min(self.vocab() - first);
        GatheredRows { matrix: &*self.head, rows, map: move |i: usize| first + i }
    }

    /// `logits = hidden · chunkᵀ`, a row per position.
    pub(super) fn logits(&self, hidden: &Packed, chunk: &dyn Rows, logits: &mut [f32]) {
        let (out, columns) = (Disjoint::new(logits), chunk.shape().0);
        multiply(self.isa, &[(hidden, Lanes::rows(chunk))], |tile| {
            store(self.isa, tile, None, &out, columns);
        });
    }
}
