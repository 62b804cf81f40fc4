//! Functions of the logits of an output head that never hold all of them.
//!
//! | operand | shape |
//! |---|---|
//! | `hidden` | `[positions, in]`, input of the head |
//! | `head` | a [`Layer`] of `vocab` outputs |
//! | `others` | `[positions, ...]`, further operands of the function; gradients do not flow to them |
//! | result | `[positions]` |
//!
//! The logits of a chunk of positions are freed before those of the next are computed, and recomputed in the backward
//! pass.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::{concatenate, indexing::TryIndexOp};

use crate::error::MlxResult;
use crate::linear::{Layer, LowRank, Weight, linears};
use crate::mlx::checkpoint::checkpoint;
use crate::quantized::{Format, PackedWeight};

/// Maximum number of logits at once: 128 MiB in f32.
pub const LOGITS: usize = 1 << 25;

/// Applies `function` to the logits, `[chunk, vocab]` in the dtype of `hidden`, and to the same positions of `others`.
/// There are at most `logits` logits at once. `gradient` tells whether a gradient will be taken.
///
/// # Errors
/// Incompatible shapes; errors of `function`.
pub fn map_logits<F>(
    hidden: &Array,
    head: &Layer,
    others: &[Array],
    (logits, gradient): (usize, bool),
    function: F,
) -> MlxResult<Array>
where
    F: Fn(&Array, &[Array]) -> MlxResult<Array> + Clone + Send + 'static,
{
    let positions = hidden.dim(0) as usize;
    let at_once = (logits / head.weight.shape().0.max(1) as usize).max(1);
    let (parts, arrays) = LayerParts::of(head);
    let chunk = |start: usize| {
        let range = start as i32..positions.min(start + at_once) as i32;
        let others = others.iter().map(|x| x.try_index(range.clone())).collect::<MlxResult<Vec<_>>>()?;
        let mut inputs = vec![hidden.try_index(range)?];
        inputs.extend(arrays.iter().cloned());
        let (parts, function) = (parts.clone(), function.clone());
        let of_chunk = move |inputs: &[Array]| {
            let [hidden, arrays @ ..] = inputs else { return Err(Exception::custom("no hidden states")) };
            let logits = linears(hidden, &[parts.layer(arrays)?])?.swap_remove(0);
            Ok(vec![function(&logits, &others)?])
        };
        let outputs = if gradient { checkpoint(&inputs, of_chunk) } else { of_chunk(&inputs) };
        Ok(outputs?.swap_remove(0))
    };
    let chunks = (0..positions).step_by(at_once).map(chunk).collect::<MlxResult<Vec<_>>>()?;
    concatenate(&chunks, 0)
}

/// A layer without its arrays.
#[derive(Debug, Clone)]
pub struct LayerParts {
    /// Codes, scales and biases, which are not trained.
    packed: Option<(Vec<Array>, Format)>,
    has_bias: bool,
    /// Of the low-rank part.
    scale: Option<f32>,
}

impl LayerParts {
    /// Splits `layer` into what does not change in training, and the arrays that may: the dense weight, the bias, `A` and
    /// `B`, as far as there are any.
    #[must_use]
    pub fn of(layer: &Layer) -> (Self, Vec<Array>) {
        let mut arrays = Vec::new();
        let packed = match layer.weight {
            Weight::Dense(weight) => {
                arrays.push(weight.clone());
                None
            }
            Weight::Packed(weight) => Some((weight.operands().cloned().collect(), weight.format)),
        };
        arrays.extend(layer.bias.cloned());
        arrays.extend(layer.low_rank.into_iter().flat_map(|low| [low.a.clone(), low.b.clone()]));
        let scale = layer.low_rank.map(|low| low.scale);
        (Self { packed, has_bias: layer.bias.is_some(), scale }, arrays)
    }

    /// The layer with the `arrays` that [`of`](Self::of) gave, or others in their place.
    ///
    /// # Errors
    /// Too few arrays.
    pub fn layer<'a>(&'a self, arrays: &'a [Array]) -> MlxResult<Layer<'a>> {
        let mut arrays = arrays.iter();
        let mut next = || arrays.next().ok_or_else(|| Exception::custom("a head without its arrays"));
        let weight = match &self.packed {
            None => Weight::Dense(next()?),
            Some((operands, format)) => {
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
