//! Linear layers that share an input, each with an optional bias and low-rank part
//! ([LoRA](https://arxiv.org/abs/2106.09685)): `y = x·Wᵀ + b + s·(x·A)·B`.
//!
//! | operand | shape |
//! |---|---|
//! | `x` | `[..., in]` |
//! | `W`, `b` | `[out, in]`, `[out]` |
//! | `A`, `B` | `[in, rank]`, `[rank, out]` |
//! | `y` | `[..., out]`, in the dtype of `x`, accumulated in f32 |
//!
//! On the CPU the whole group is one node: the input is read once for all layers and their low-rank
//! parts, and its gradient comes out as one sum. When `x` is bf16, `A` and `B` take part as bf16.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::device::on_cpu;
use super::op::{MlxResult, apply_many};

mod backward;
mod forward;

pub(super) use forward::{matrix, precision};

/// One layer of a group.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// `W`
    pub weight: &'a Array,
    /// `b`
    pub bias: Option<&'a Array>,
    /// `A`, `B` and `s`
    pub low_rank: Option<LowRank<'a>>,
}

/// The low-rank part of a layer.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// `A`
    pub a: &'a Array,
    /// `B`
    pub b: &'a Array,
    /// `s`
    pub scale: f32,
}

/// Outputs of all `layers` for the same `x`. See the [module](self) for shapes.
///
/// # Errors
/// Shapes that do not fit, with both of them in the message.
pub fn linears(x: &Array, layers: &[Layer]) -> MlxResult<Vec<Array>> {
    layers.iter().try_for_each(|layer| layer.check(x))?;
    let operands = || layers.iter().flat_map(Layer::operands).chain([x]);
    if !on_cpu() || !operands().all(|array| is_float(array.dtype())) {
        return reference(x, layers);
    }
    let (inputs, slots) = Slots::assign(x, layers);
    let mut lead = x.shape().to_vec();
    lead.pop();
    let shape = |columns: i32| lead.iter().copied().chain([columns]).collect::<Vec<_>>();
    let mut shapes: Vec<_> = layers.iter().map(|layer| (shape(layer.weight.dim(0)), x.dtype())).collect();
    let rank = slots.iter().map(Slots::rank).sum::<usize>();
    if rank > 0 {
        // Kept for the gradient.
        shapes.push((shape(rank as i32), Dtype::Float32));
    }
    let shapes: Vec<_> = shapes.iter().map(|(shape, dtype)| (shape.as_slice(), *dtype)).collect();
    let mut outputs = apply_many(forward::Forward { layers: slots }, &inputs, &shapes)?;
    outputs.truncate(layers.len());
    Ok(outputs)
}

/// The same function in MLX's own operations.
///
/// # Errors
/// Shapes that do not fit.
pub fn reference(x: &Array, layers: &[Layer]) -> MlxResult<Vec<Array>> {
    let one = |layer: &Layer| {
        let mut y = x.matmul(layer.weight.swap_axes(-1, -2)?)?;
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

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
}

impl<'a> Layer<'a> {
    fn operands(&self) -> impl Iterator<Item = &'a Array> + use<'a> {
        let low_rank = self.low_rank.map(|low| [low.a, low.b]);
        [self.weight].into_iter().chain(self.bias).chain(low_rank.into_iter().flatten())
    }

    fn check(&self, x: &Array) -> MlxResult<()> {
        let misfit = |name: &str, array: &Array, of: &Array| {
            let (shape, other) = (array.shape(), of.shape());
            Err(Exception::custom(format!("linear: {name} of shape {shape:?} does not fit {other:?}")))
        };
        let weight = self.weight;
        if weight.ndim() != 2 || x.ndim() == 0 || x.dim(-1) != weight.dim(1) {
            return misfit("input", x, weight);
        }
        if let Some(bias) = self.bias
            && bias.shape() != [weight.dim(0)]
        {
            return misfit("bias", bias, weight);
        }
        if let Some(LowRank { a, b, .. }) = self.low_rank {
            if a.ndim() != 2 || a.dim(0) != weight.dim(1) {
                return misfit("A", a, weight);
            }
            if b.shape() != [a.dim(1), weight.dim(0)] {
                return misfit("B", b, weight);
            }
        }
        Ok(())
    }
}

/// Where the operands of a layer stand among the inputs of a node; `x` is the first.
#[derive(Debug, Clone, Copy)]
struct Slots {
    weight: usize,
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
        let mut put = |array| {
            inputs.push(array);
            inputs.len() - 1
        };
        let slots = layers
            .iter()
            .map(|layer| Self {
                weight: put(layer.weight),
                bias: layer.bias.map(&mut put),
                low_rank: layer.low_rank.map(|low| LowRankSlots {
                    a: put(low.a),
                    b: put(low.b),
                    scale: low.scale,
                    rank: low.a.dim(1) as usize,
                }),
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
