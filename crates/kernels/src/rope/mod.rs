//! Rotary position embeddings ([RoPE](https://arxiv.org/abs/2104.09864)) of queries and keys, half-split
//! layout: the pair `(x[i], x[i + dims/2])` is rotated by `scale · position / period[i]`; elements of a head
//! from `dims` on are unchanged.
//!
//! | operand | shape |
//! |---|---|
//! | `q`, `k` | `[batch, time, heads, head_dim]`, with possibly different `heads` |
//! | positions | an offset, or `[batch, time]`, i32 |
//! | results | as `q` and `k` |
//!
//! On the CPU one node rotates both, with angles in f64: f32 has an error in the third digit at position 100 000.

use std::ffi::CStr;
use std::sync::Arc;

use mlx_rs::error::Exception;
use mlx_rs::fast::rope as mlx_rope;
use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::ops::{concatenate, cos, sin};
use mlx_rs::{Array, Dtype};

use crate::error::MlxResult;
use crate::mlx::apply::apply_many;
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::element::Element;
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut, Slice, SliceMut};

pub(super) mod cpu;

/// Frequencies of a rotary embedding.
#[derive(Debug, Clone)]
pub struct RotaryFrequencies {
    dims: i32,
    scale: f32,
    /// Period of each pair over 2π, `[dims/2]`.
    periods: Array,
    /// Inverse frequencies, `scale / period`: radians per position.
    inv_freq: Arc<[f64]>,
}

/// Positions of tokens.
#[derive(Debug, Clone, Copy)]
pub enum Positions<'a> {
    /// Consecutive positions from this one on, in every sequence.
    Offset(i32),
    /// Position ids, `[batch, time]`, i32: sequences packed into one row each start at zero.
    Ids(&'a Array),
}

impl RotaryFrequencies {
    /// Creates the frequencies of `2 · periods.len()` dimensions from periods over 2π, in positions. Positions are
    /// multiplied by `scale`.
    #[must_use]
    pub fn new(periods: &[f64], scale: f64) -> Self {
        let narrow: Vec<f32> = periods.iter().map(|&period| period as f32).collect();
        Self {
            dims: 2 * periods.len() as i32,
            scale: scale as f32,
            periods: Array::from_slice(&narrow, &[periods.len() as i32]),
            inv_freq: periods.iter().map(|period| scale / period).collect(),
        }
    }

    /// Inverse frequencies for heads of dimension `head_dim`.
    ///
    /// # Errors
    /// A `head_dim` smaller than the number of rotated dimensions.
    pub(super) fn inv_freq(&self, head_dim: i32) -> MlxResult<Arc<[f64]>> {
        if self.dims > head_dim {
            let message =
                format!("rope: heads of {head_dim} numbers do not fit {} turned dimensions", self.dims);
            return Err(Exception::custom(message));
        }
        Ok(self.inv_freq.clone())
    }

    /// Default periods over 2π, `theta^(2i/dims)`.
    #[must_use]
    pub fn periods(theta: f64, dims: i32) -> Vec<f64> {
        (0..dims / 2).map(|i| theta.powf(f64::from(2 * i) / f64::from(dims))).collect()
    }
}

/// Rotates `q` and `k`. See the [module](self) for shapes.
///
/// # Errors
/// Incompatible shapes.
pub fn rope(
    q: &Array,
    k: &Array,
    rotation: &RotaryFrequencies,
    positions: Positions,
) -> MlxResult<(Array, Array)> {
    check(q, k, rotation, positions)?;
    let float = matches!(q.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if !on_cpu() || !float || q.dtype() != k.dtype() {
        return Ok((reference(q, rotation, positions)?, reference(k, rotation, positions)?));
    }
    let mut inputs = vec![q, k];
    let first = match positions {
        Positions::Offset(first) => Some(first),
        Positions::Ids(positions) => {
            inputs.push(positions);
            None
        }
    };
    let op = Rope { inv_freq: rotation.inv_freq.clone(), first };
    pair(apply_many(op, &inputs, &[(q.shape(), q.dtype()), (k.shape(), k.dtype())])?)
}

fn pair(arrays: Vec<Array>) -> MlxResult<(Array, Array)> {
    let [q, k] =
        <[Array; 2]>::try_from(arrays).map_err(|_| Exception::custom("rope: two results expected"))?;
    Ok((q, k))
}

/// Reference implementation for one of the two, composed of MLX operations.
///
/// # Errors
/// Incompatible shapes.
pub fn reference(x: &Array, rotation: &RotaryFrequencies, positions: Positions) -> MlxResult<Array> {
    let &RotaryFrequencies { dims, scale, ref periods, .. } = rotation;
    match positions {
        Positions::Offset(first) => {
            let heads_first = |x: &Array| x.transpose_axes(&[0, 2, 1, 3]);
            heads_first(&mlx_rope(heads_first(x)?, dims, false, None, scale, first, Some(periods))?)
        }
        Positions::Ids(positions) => {
            let scaled = positions.as_dtype(Dtype::Float32)?.multiply(Array::from_f32(scale))?;
            let angles = scaled.expand_dims_axes(&[2, 3])?.divide(periods)?;
            let (c, s) = (cos(&angles)?, sin(&angles)?);
            let wide = x.as_dtype(Dtype::Float32)?;
            let (a, b) =
                (wide.try_index((.., .., .., ..dims / 2))?, wide.try_index((.., .., .., dims / 2..dims))?);
            let rest = wide.try_index((.., .., .., dims..))?;
            let rotated =
                [a.multiply(&c)?.subtract(b.multiply(&s)?)?, a.multiply(&s)?.add(b.multiply(&c)?)?, rest];
            concatenate(&rotated, -1)?.as_dtype(x.dtype())
        }
    }
}

fn check(q: &Array, k: &Array, rotation: &RotaryFrequencies, positions: Positions) -> MlxResult<()> {
    let fits = match (q.shape(), k.shape()) {
        (&[batch, time, _, head_dim], &[k_batch, k_time, _, k_dim]) => {
            let positions = match positions {
                Positions::Offset(_) => true,
                Positions::Ids(each) => each.shape() == [batch, time] && each.dtype() == Dtype::Int32,
            };
            positions && [batch, time, head_dim] == [k_batch, k_time, k_dim] && rotation.dims <= head_dim
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(Exception::custom(format!(
        "rope: q {:?} and k {:?} do not fit {} turned dimensions at {positions:?}",
        q.shape(),
        k.shape(),
        rotation.dims
    )))
}

/// Inputs `q`, `k` and, when there is no first one, positions.
struct Rope {
    /// Inverse frequencies, `scale / period`: radians per position.
    inv_freq: Arc<[f64]>,
    /// First position.
    first: Option<i32>,
}

impl HostOp for Rope {
    const NAME: &'static CStr = c"EatRope";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        match outputs[0].data {
            SliceMut::F32(_) => self.rotate::<f32>(inputs, outputs),
            SliceMut::F16(_) => self.rotate::<half::f16>(inputs, outputs),
            SliceMut::Bf16(_) => self.rotate::<half::bf16>(inputs, outputs),
        }
    }

    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        // The gradient turns back.
        let back =
            Self { inv_freq: self.inv_freq.iter().map(|frequency| -frequency).collect(), first: self.first };
        let inputs: Vec<&Array> = ctx.cotangents.iter().chain(ctx.inputs.get(2)).collect();
        let outputs = [&ctx.inputs[0], &ctx.inputs[1]].map(|input| (input.shape(), input.dtype()));
        let gradients = apply_many(back, &inputs, &outputs)?;
        let gradient = |&input: &usize| match gradients.get(input) {
            Some(gradient) => Ok(gradient.clone()),
            None => no_gradient(Self::NAME).map(|mut none| none.remove(0)),
        };
        argnums.iter().map(gradient).collect()
    }
}

impl Rope {
    fn rotate<T: Element>(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let [q_out, k_out] = outputs else { unreachable!("two outputs") };
        let (head_dim, time) =
            (q_out.shape[3].unsigned_abs() as usize, q_out.shape[1].unsigned_abs() as usize);
        let positions = match (self.first, inputs.get(2).map(|positions| positions.data)) {
            (Some(first), _) => cpu::Positions::Offset { first, time },
            (None, Some(Slice::I32(each))) => cpu::Positions::Ids(each),
            _ => unreachable!("positions are i32"),
        };
        let tokens = time * q_out.shape[0].unsigned_abs() as usize;
        let pairs = [
            (T::of(&inputs[0].data), T::of_mut(&mut q_out.data)),
            (T::of(&inputs[1].data), T::of_mut(&mut k_out.data)),
        ];
        cpu::rotate(Isa::current(), &self.inv_freq, positions, tokens, head_dim, pairs);
    }
}

#[cfg(test)]
mod tests;
