//! Composition over chunks of positions. The logits of a chunk are freed before those of the next are computed, and
//! recomputed in the backward pass.

use mlx_rs::ops::{concatenate, indexing::TryIndexOp};

use super::{Array, Exception, Layer, MlxResult, Options, Weight, cross_entropy_of_logits, token_losses};
use crate::linear::{LowRank, linears};
use crate::mlx::checkpoint::checkpoint;
use crate::quantized::{Format, PackedWeight};
use crate::sparse::SparseMatrix;

/// Maximum number of logits at once: 128 MiB in f32.
pub(super) const LOGITS: usize = 1 << 25;

/// As [`cross_entropy_rows`](super::cross_entropy_rows), with at most `logits` of them at once.
pub(super) fn rows(
    hidden: &Array,
    head: &Layer,
    targets: &Array,
    weights: &Array,
    options: Options,
    logits: usize,
) -> MlxResult<Array> {
    let positions = targets.size();
    let at_once = (logits / head.weight.shape().0.max(1) as usize).max(1);
    if positions <= at_once {
        let logits = linears(hidden, &[*head])?.swap_remove(0);
        return cross_entropy_of_logits(&logits, targets, weights, options);
    }
    let hidden = hidden.reshape(&[positions as i32, -1])?;
    let flat_targets = targets.reshape(&[-1])?;
    let (parts, arrays) = Parts::of(head);
    let chunk = |start: usize| {
        let range = start as i32..positions.min(start + at_once) as i32;
        let targets = flat_targets.try_index(range.clone())?;
        let mut inputs = vec![hidden.try_index(range)?];
        inputs.extend(arrays.iter().cloned());
        let parts = parts.clone();
        let of_chunk = move |inputs: &[Array]| {
            let [hidden, arrays @ ..] = inputs else { return Err(Exception::custom("no hidden states")) };
            let logits = linears(hidden, &[parts.layer(arrays)?])?.swap_remove(0);
            Ok(vec![token_losses(&logits, &targets, options)?])
        };
        let outputs = if options.gradient { checkpoint(&inputs, of_chunk) } else { of_chunk(&inputs) };
        Ok(outputs?.swap_remove(0))
    };
    let chunks = (0..positions).step_by(at_once).map(chunk).collect::<MlxResult<Vec<_>>>()?;
    concatenate(&chunks, 0)?.reshape(targets.shape())?.multiply(weights)?.sum_axis(-1, false)
}

/// A weight that is not trained.
#[derive(Clone)]
enum Fixed {
    /// Codes, scales and biases.
    Packed(Vec<Array>, Format),
    Sparse(SparseMatrix),
}

/// A layer without the arrays that may be trained.
#[derive(Clone)]
struct Parts {
    fixed: Option<Fixed>,
    has_bias: bool,
    /// Of the low-rank part.
    scale: Option<f32>,
}

impl Parts {
    /// With these arrays: the dense weight, the bias, `A` and `B`, as far as there are any.
    fn of(layer: &Layer) -> (Self, Vec<Array>) {
        let mut arrays = Vec::new();
        let fixed = match layer.weight {
            Weight::Dense(weight) => {
                arrays.push(weight.clone());
                None
            }
            Weight::Packed(weight) => {
                Some(Fixed::Packed(weight.operands().cloned().collect(), weight.format))
            }
            Weight::Sparse(matrix) => Some(Fixed::Sparse(matrix.clone())),
        };
        arrays.extend(layer.bias.cloned());
        arrays.extend(layer.low_rank.into_iter().flat_map(|low| [low.a.clone(), low.b.clone()]));
        let scale = layer.low_rank.map(|low| low.scale);
        (Self { fixed, has_bias: layer.bias.is_some(), scale }, arrays)
    }

    /// The layer with the `arrays` that [`of`](Self::of) gave, or others in their place.
    fn layer<'a>(&'a self, arrays: &'a [Array]) -> MlxResult<Layer<'a>> {
        let mut arrays = arrays.iter();
        let mut next = || arrays.next().ok_or_else(|| Exception::custom("a head without its arrays"));
        let weight = match &self.fixed {
            None => Weight::Dense(next()?),
            Some(Fixed::Sparse(matrix)) => Weight::Sparse(matrix),
            Some(Fixed::Packed(operands, format)) => {
                let [codes, scales, biases @ ..] = operands.as_slice() else {
                    return Err(Exception::custom("a packed head without its arrays"));
                };
                Weight::Packed(PackedWeight { codes, scales, biases: biases.first(), format: *format })
            }
        };
        let bias = self.has_bias.then(&mut next).transpose()?;
        let low_rank = match self.scale {
            Some(scale) => Some(LowRank { a: next()?, b: next()?, scale }),
            None => None,
        };
        Ok(Layer { weight, bias, low_rank })
    }
}
