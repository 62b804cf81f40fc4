//! Scaled dot-product attention with grouped queries ([GQA](https://arxiv.org/abs/2305.13245)).
//!
//! `softmax(scale · Q·Kᵀ + mask)·V`, with optional softcap and sinks: see [`Scoring`].
//!
//! | operand | shape |
//! |---|---|
//! | `q` | `[batch, time, heads, head_dim]` |
//! | `k`, `v` | `[batch, capacity, kv_heads, head_dim]`, `kv_heads` divides `heads` |
//! | `starts` | `[batch, time]`, i32 |
//! | `sinks` | `[heads]` |
//! | result | as `q` |
//!
//! The layout is that of projection outputs, without transposition. The last query is at the position of the last key.
//!
//! On the CPU the score matrix is never materialized, forward or backward: additional memory is a few blocks per thread,
//! and one number per query and head for the gradient.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::error::MlxResult;
use crate::mlx::apply::apply_many;
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::element::{Element, with_element};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut, Slice, SliceMut};
pub use composition::reference;
pub(super) use forward::forward;
pub(super) use panel::{Geometry, Inputs};
pub(super) use vector::Load;

mod backward;
mod composition;
mod decode;
mod forward;
mod panel;
mod product;
mod vector;

/// Which keys a query attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// Its own position and all earlier ones.
    Causal,
    /// Its own position and the `n - 1` positions before ([sliding window](https://arxiv.org/abs/2310.06825)).
    Sliding(i32),
    /// All positions, as in encoders.
    Full,
}

/// Computation of attention scores.
#[derive(Debug, Clone, Copy)]
pub struct Scoring<'a> {
    /// Factor of the dot products, usually `1/√head_dim`.
    pub scale: f32,
    /// Keys that each query attends to.
    pub mask: Mask,
    /// Softcap `c`: scores become `c · tanh(score / c)` ([Gemma 2](https://arxiv.org/abs/2408.00118)).
    pub softcap: Option<f32>,
    /// Attention sinks, `[heads]`: one additional score per head in the denominator of the softmax, without a value
    /// ([gpt-oss](https://arxiv.org/abs/2508.10925)).
    pub sinks: Option<&'a Array>,
}

impl Scoring<'_> {
    /// Scores without softcap and sinks.
    #[must_use]
    pub const fn plain(scale: f32, mask: Mask) -> Self {
        Self { scale, mask, softcap: None, sinks: None }
    }
}

/// Keys and values of a sequence, in buffers that may have spare capacity.
#[derive(Debug, Clone, Copy)]
pub struct KeyValues<'a> {
    /// Keys, `[batch, capacity, kv_heads, head_dim]`.
    pub k: &'a Array,
    /// Values, as `k`.
    pub v: &'a Array,
    /// Number of positions in use.
    pub len: i32,
}

impl<'a> KeyValues<'a> {
    /// Buffers in which all positions are in use.
    #[must_use]
    pub fn all(k: &'a Array, v: &'a Array) -> Self {
        // Shapes are checked by `attention`.
        Self { k, v, len: k.shape().get(1).copied().unwrap_or(0) }
    }
}

impl Mask {
    fn window(self) -> i32 {
        match self {
            Self::Causal | Self::Full => i32::MAX,
            Self::Sliding(window) => window,
        }
    }

    /// Boolean mask, `true` where a query (row) attends to a key (column): `[time, keys]`, or `[batch, 1, time, keys]`
    /// with `starts`. Returns `None` if every query attends to every key.
    ///
    /// # Errors
    /// An exception raised by MLX.
    pub fn array(self, time: i32, keys: i32, starts: Option<&Array>) -> MlxResult<Option<Array>> {
        let window = self.window();
        if (time == 1 || self == Self::Full) && window >= keys && starts.is_none() {
            return Ok(None);
        }
        let columns = Array::arange::<_, i32>(None, keys, None)?;
        if let (Self::Full, Some(starts)) = (self, starts) {
            return Ok(Some(columns.ge(starts.expand_dims_axes(&[1, 3])?)?));
        }
        let rows = Array::arange::<_, i32>(keys - time, keys, None)?.expand_dims(1)?;
        let distance = rows.subtract(&columns)?;
        let mut seen = distance.ge(Array::from_int(0))?;
        if window < keys {
            seen = seen.logical_and(distance.lt(Array::from_int(window))?)?;
        }
        if let Some(starts) = starts {
            seen = seen.logical_and(columns.ge(starts.expand_dims_axes(&[1, 3])?)?)?;
        }
        Ok(Some(seen))
    }
}

/// Computes scaled dot-product attention. See the [module](self) for shapes.
///
/// `starts` restricts each query to keys from the given position on: with several sequences packed into one row, the
/// start of its own sequence.
///
/// # Errors
/// Incompatible shapes or invalid options.
pub fn attention(q: &Array, keys: KeyValues, scoring: Scoring, starts: Option<&Array>) -> MlxResult<Array> {
    if keys.v.shape() != keys.k.shape() {
        let (k, v) = (keys.k.shape(), keys.v.shape());
        return Err(Exception::custom(format!("attention: keys {k:?} and values {v:?} do not fit")));
    }
    let geometry = geometry(q.shape(), keys.k.shape(), keys.len, scoring)?;
    if let Some(starts) = starts
        && (starts.shape() != &q.shape()[..2] || starts.dtype() != Dtype::Int32)
    {
        let message = format!("attention: starts are [batch, time] of i32, not {:?}", starts.shape());
        return Err(Exception::custom(message));
    }
    let float = matches!(q.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if !on_cpu() || !float || [keys.k.dtype(), keys.v.dtype()] != [q.dtype(); 2] {
        return reference(q, keys, scoring, starts);
    }
    let inputs: Vec<&Array> = [q, keys.k, keys.v].into_iter().chain(scoring.sinks).chain(starts).collect();
    let outputs: [(&[i32], Dtype); 2] = [(q.shape(), q.dtype()), (&q.shape()[..3], Dtype::Float32)];
    let op = Attention { geometry, sinks: scoring.sinks.is_some() };
    Ok(apply_many(op, &inputs, &outputs)?.swap_remove(0))
}

/// Checked sizes for queries of shape `q` and keys of shape `k`, `len` of them in use.
pub(super) fn geometry(q: &[i32], k: &[i32], len: i32, scoring: Scoring) -> MlxResult<Geometry> {
    let Scoring { scale, mask, softcap, sinks } = scoring;
    let mismatch =
        |what: &str| Exception::custom(format!("attention: {what}: q {q:?}, k {k:?}, {len} keys, {mask:?}"));
    let (&[batch, time, heads, head_dim], &[k_batch, capacity, kv_heads, k_dim]) = (q, k) else {
        return Err(mismatch("queries and keys have four dimensions"));
    };
    if k_batch != batch || k_dim != head_dim {
        return Err(mismatch("queries and keys do not fit"));
    }
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(mismatch("the heads of keys do not divide those of queries"));
    }
    let fewest = if mask == Mask::Full { 1 } else { time };
    if !(fewest..=capacity).contains(&len) {
        return Err(mismatch("every query needs a key at its position"));
    }
    if let Some(sinks) = sinks
        && (sinks.shape() != [heads]
            || !matches!(sinks.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16))
    {
        return Err(mismatch("sinks are one floating point number for each head of the queries"));
    }
    if softcap.is_some_and(|cap| !(cap.is_finite() && cap > 0.0)) {
        return Err(mismatch("a softcap is a number above 0"));
    }
    if mask.window() < 1 {
        return Err(mismatch("a window holds at least the query itself"));
    }
    let size = |dim: i32| dim.unsigned_abs() as usize;
    Ok(Geometry {
        batch: size(batch),
        time: size(time),
        heads: size(heads),
        kv_heads: size(kv_heads),
        head_dim: size(head_dim),
        capacity: size(capacity),
        keys: size(len),
        scale,
        softcap,
        is_causal: mask != Mask::Full,
        window: size(mask.window()),
    })
}

/// Inputs `q`, `k`, `v` and perhaps sinks and `starts`; outputs the result and the logsumexp of the scores.
struct Attention {
    geometry: Geometry,
    sinks: bool,
}

impl HostOp for Attention {
    const NAME: &'static CStr = c"EatAttention";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let [out, logsumexps] = outputs else { unreachable!("two outputs") };
        let SliceMut::F32(logsumexps) = &mut logsumexps.data else { unreachable!("sums are f32") };
        match &mut out.data {
            SliceMut::F32(out) => self.forward(inputs, out, logsumexps),
            SliceMut::F16(out) => self.forward(inputs, out, logsumexps),
            SliceMut::Bf16(out) => self.forward(inputs, out, logsumexps),
        }
    }

    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let (out, logsumexps, grad) = (&ctx.outputs[0], &ctx.outputs[1], &ctx.cotangents[0]);
        let mut inputs: Vec<&Array> = ctx.inputs[..3].iter().collect();
        inputs.extend([out, logsumexps, grad]);
        inputs.extend(ctx.inputs.get(3 + usize::from(self.sinks)));
        let outputs: Vec<(&[i32], Dtype)> =
            ctx.inputs[..3].iter().map(|input| (input.shape(), input.dtype())).collect();
        let gradients = apply_many(Gradient { geometry: self.geometry }, &inputs, &outputs)?;
        let gradient = |&input: &usize| match gradients.get(input) {
            Some(gradient) => Ok(gradient.clone()),
            None if self.sinks && input == 3 => sink_gradient(&ctx.inputs[3], out, logsumexps, grad),
            None => Err(Exception::custom("attention: starts have no gradient")),
        };
        argnums.iter().map(gradient).collect()
    }
}

impl Attention {
    fn forward<T: Load>(&self, inputs: &[Operand], out: &mut [T], logsumexps: &mut [f32]) {
        let sinks = self.sinks.then(|| numbers(&inputs[3]));
        let inputs = Inputs { sinks: sinks.as_deref(), ..operands(inputs, 3 + usize::from(self.sinks)) };
        forward(Isa::current(), &self.geometry, &inputs, out, logsumexps);
    }
}

/// Inputs `q`, `k`, `v`, both outputs of [`Attention`], the gradient of the first, and perhaps `starts`;
/// outputs the gradients of `q`, `k`, `v`.
struct Gradient {
    geometry: Geometry,
}

impl HostOp for Gradient {
    const NAME: &'static CStr = c"EatAttentionGradient";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let [q, k, v] = outputs else { unreachable!("three outputs") };
        match (&mut q.data, &mut k.data, &mut v.data) {
            (SliceMut::F32(q), SliceMut::F32(k), SliceMut::F32(v)) => self.backward(inputs, q, k, v),
            (SliceMut::F16(q), SliceMut::F16(k), SliceMut::F16(v)) => self.backward(inputs, q, k, v),
            (SliceMut::Bf16(q), SliceMut::Bf16(k), SliceMut::Bf16(v)) => self.backward(inputs, q, k, v),
            _ => unreachable!("all gradients have one dtype"),
        }
    }

    fn vjp(&self, _: &VjpContext, _: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

impl Gradient {
    fn backward<T: Element>(&self, inputs: &[Operand], q: &mut [T], k: &mut [T], v: &mut [T]) {
        let Slice::F32(logsumexps) = inputs[4].data else { unreachable!("sums are f32") };
        let saved = backward::SavedForBackward {
            out: T::of(&inputs[3].data),
            logsumexps,
            grad: T::of(&inputs[5].data),
        };
        let gradients = backward::Gradients { q, k, v };
        backward::backward(Isa::current(), &self.geometry, &operands(inputs, 6), &saved, gradients);
    }
}

fn operands<'a, T: Element>(inputs: &[Operand<'a>], starts: usize) -> Inputs<'a, T> {
    let starts = inputs.get(starts).map(|starts| match starts.data {
        Slice::I32(starts) => starts,
        _ => unreachable!("starts are i32"),
    });
    Inputs {
        q: T::of(&inputs[0].data),
        k: T::of(&inputs[1].data),
        v: T::of(&inputs[2].data),
        starts,
        sinks: None,
    }
}

/// Elements of a small operand as f32.
pub(super) fn numbers(operand: &Operand) -> Vec<f32> {
    let data = &operand.data;
    with_element!(data, T => T::of(data).iter().map(|x| x.to_f32()).collect())
}

/// `-Σ P·δ` over all queries, with the weight P of the sink and δ = Σ dO·O.
fn sink_gradient(sinks: &Array, out: &Array, logsumexps: &Array, grad: &Array) -> MlxResult<Array> {
    let wide = |x: &Array| x.as_dtype(Dtype::Float32);
    let delta = wide(out)?.multiply(wide(grad)?)?.sum_axis(-1, false)?;
    let weight = wide(sinks)?.subtract(logsumexps)?.exp()?;
    weight.multiply(delta)?.sum_axes(&[0, 1], false)?.negative()?.as_dtype(sinks.dtype())
}

#[cfg(test)]
mod tests;
