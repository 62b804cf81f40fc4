//! Linear layers that share an input, each with an optional bias and low-rank term
//! ([LoRA](https://arxiv.org/abs/2106.09685)): `y = x·Wᵀ + b + s·(x·A)·B`.
//!
//! | operand | shape |
//! |---|---|
//! | `x` | `[..., in]` |
//! | `W`, `b` | `[out, in]`, dense, quantized or sparse, and `[out]` |
//! | `A`, `B` | `[in, rank]`, `[rank, out]` |
//! | `y` | `[..., out]`, in the dtype of `x`, accumulated in f32 |
//!
//! On the CPU the whole group is one node: the input is read once for all layers and low-rank terms, and its gradient is
//! accumulated in one output. If `x` is bf16, `A` and `B` are rounded to bf16 in products.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::error::MlxResult;
use crate::mlx::apply::apply_many;
use crate::mlx::device::on_cpu;
use crate::quantized::{self, Accuracy, PackedWeight};
use crate::sparse::Unpacked;

mod backward;
mod forward;
mod low_rank;
mod sparsity;
mod weight;

pub use weight::Weight;
pub(super) use weight::WeightSlot;

/// A linear layer.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Weight `W`.
    pub weight: Weight<'a>,
    /// Bias `b`.
    pub bias: Option<&'a Array>,
    /// Low-rank term `s·(x·A)·B`.
    pub low_rank: Option<LowRank<'a>>,
}

/// Low-rank term of a layer.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// Down-projection `A`, `[in, rank]`.
    pub a: &'a Array,
    /// Up-projection `B`, `[rank, out]`.
    pub b: &'a Array,
    /// Scale `s`.
    pub scale: f32,
}

/// Applies each of `layers` to `x` and returns their outputs. See the [module](self) for shapes.
///
/// # Errors
/// Incompatible shapes.
pub fn linears(x: &Array, layers: &[Layer]) -> MlxResult<Vec<Array>> {
    layers.iter().try_for_each(|layer| layer.check(x))?;
    if !on_cpu() || !is_float(x) || !layers.iter().flat_map(Layer::floats).all(is_float) {
        return reference(x, layers);
    }
    let (inputs, slots) = Slots::assign(x, layers);
    let mut lead = x.shape().to_vec();
    lead.pop();
    let shape = |columns: i32| lead.iter().copied().chain([columns]).collect::<Vec<_>>();
    let mut shapes: Vec<_> = layers.iter().map(|layer| (shape(layer.weight.shape().0), x.dtype())).collect();
    let rank = slots.iter().map(Slots::rank).sum::<usize>();
    if rank > 0 {
        // Kept for the gradient.
        shapes.push((shape(rank as i32), Dtype::Float32));
    }
    let shapes: Vec<_> = shapes.iter().map(|(shape, dtype)| (shape.as_slice(), *dtype)).collect();
    let op = forward::Forward { layers: slots, accuracy: Accuracy::current() };
    let mut outputs = apply_many(op, &inputs, &shapes)?;
    outputs.truncate(layers.len());
    Ok(outputs)
}

/// Reference implementation composed of MLX operations.
///
/// # Errors
/// Incompatible shapes.
pub fn reference(x: &Array, layers: &[Layer]) -> MlxResult<Vec<Array>> {
    let one = |layer: &Layer| {
        let mut y = match layer.weight {
            Weight::Dense(weight) => x.matmul(weight.swap_axes(-1, -2)?)?,
            Weight::Packed(weight) => quantized::reference(x, weight)?,
            Weight::Sparse(matrix) => match matrix.unpack() {
                Unpacked::Dense(weight) => x.matmul(weight.swap_axes(-1, -2)?)?,
                Unpacked::Quantized(codes, scales, biases, format) => {
                    let biases = Some(&biases);
                    quantized::reference(x, PackedWeight { codes: &codes, scales: &scales, biases, format })?
                }
            },
        };
        if let Some(bias) = layer.bias {
            y = y.add(bias)?;
        }
        if let Some(LowRank { a, b, scale }) = layer.low_rank {
            let low = x.as_dtype(a.dtype())?.matmul(a)?.matmul(b)?;
            let low = low.multiply(Array::from_f32(scale).as_dtype(low.dtype())?)?;
            y = y.add(low.as_dtype(y.dtype())?)?;
        }
        Ok(y)
    };
    layers.iter().map(one).collect()
}

pub(crate) fn is_float(array: &Array) -> bool {
    matches!(array.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
}

impl<'a> Layer<'a> {
    /// A layer without bias and low-rank term.
    #[must_use]
    pub fn plain(weight: Weight<'a>) -> Self {
        Self { weight, bias: None, low_rank: None }
    }

    /// The operands that are read as floating-point numbers.
    fn floats(&self) -> impl Iterator<Item = &'a Array> + use<'a> {
        let weight = match self.weight {
            Weight::Dense(weight) => Some(weight),
            Weight::Packed(_) | Weight::Sparse(_) => None,
        };
        let low_rank = self.low_rank.map(|low| [low.a, low.b]);
        weight.into_iter().chain(self.bias).chain(low_rank.into_iter().flatten())
    }

    fn check(&self, x: &Array) -> MlxResult<()> {
        let mismatch = |name: &str, array: &Array, (outputs, inputs): (i32, i32)| {
            let shape = array.shape();
            let message =
                format!("linear: {name} of shape {shape:?} does not fit a layer [{outputs}, {inputs}]");
            Err(Exception::custom(message))
        };
        if let Weight::Packed(weight) = self.weight {
            weight.shape()?;
        }
        let size @ (outputs, inputs) = self.weight.shape();
        if x.ndim() == 0 || x.dim(-1) != inputs {
            return mismatch("input", x, size);
        }
        if let Some(bias) = self.bias
            && bias.shape() != [outputs]
        {
            return mismatch("bias", bias, size);
        }
        if let Some(LowRank { a, b, .. }) = self.low_rank {
            if a.ndim() != 2 || a.dim(0) != inputs {
                return mismatch("A", a, size);
            }
            if b.shape() != [a.dim(1), outputs] {
                return mismatch("B", b, size);
            }
        }
        Ok(())
    }
}

/// Where the operands of a layer stand among the inputs of a node; `x` is the first.
#[derive(Debug, Clone, Copy)]
struct Slots {
    weight: WeightSlot,
    bias: Option<usize>,
    low_rank: Option<LowRankSlots>,
}

#[derive(Debug, Clone, Copy)]
struct LowRankSlots {
    a: usize,
    b: usize,
    scale: f32,
    rank: usize,
}

impl Slots {
    fn assign<'a>(x: &'a Array, layers: &[Layer<'a>]) -> (Vec<&'a Array>, Vec<Self>) {
        let mut inputs = vec![x];
        let slots = layers
            .iter()
            .map(|layer| {
                let weight = WeightSlot::append(layer.weight, &mut inputs);
                let mut put = |array| {
                    inputs.push(array);
                    inputs.len() - 1
                };
                let bias = layer.bias.map(&mut put);
                let low_rank = layer.low_rank.map(|low| LowRankSlots {
                    a: put(low.a),
                    b: put(low.b),
                    scale: low.scale,
                    rank: low.a.dim(1) as usize,
                });
                Self { weight, bias, low_rank }
            })
            .collect();
        (inputs, slots)
    }

    fn rank(&self) -> usize {
        self.low_rank.map_or(0, |low| low.rank)
    }
}

#[cfg(test)]
mod tests;
