//! Batched matrix product `C = op(A)·op(B)`, where `op` optionally transposes the last two dimensions.
//!
//! | operand | shape as stored |
//! |---|---|
//! | `a` | `[..., m, k]`, or `[..., k, m]` when transposed |
//! | `b` | `[..., k, n]`, or `[..., n, k]` when transposed; two-dimensional or `a`'s leading dimensions |
//! | result | `[..., m, n]` in the operands' dtype, accumulated in f32 |
//!
//! Transposed operands are read in place, without a copy.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::error::MlxResult;
use crate::mlx::apply::apply;
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext};
use crate::runtime::isa::Isa;
use crate::runtime::operand::{Operand, OperandMut};

mod cpu;

/// Which operands are transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transpose {
    /// `a` is `[..., k, m]`.
    pub a: bool,
    /// `b` is `[..., n, k]`.
    pub b: bool,
}

impl Transpose {
    /// `A·B`
    pub const NONE: Self = Self { a: false, b: false };
    /// `A·Bᵀ`, as in a linear layer with weight `[out, in]`.
    pub const B: Self = Self { a: false, b: true };
}

/// Computes the matrix product. See the [module](self) for shapes.
///
/// # Errors
/// Incompatible shapes.
pub fn matmul(a: &Array, b: &Array, transpose: Transpose) -> MlxResult<Array> {
    let float = matches!(a.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if !on_cpu() || !float || a.dtype() != b.dtype() {
        return reference(a, b, transpose);
    }
    let geometry = Geometry::of(a.shape(), b.shape(), transpose)?;
    let mut shape = a.shape().to_vec();
    shape.truncate(a.ndim() - 2);
    shape.extend([geometry.m, geometry.n].map(|dim| dim as i32));
    apply(MatMul { transpose }, &[a, b], &shape, a.dtype())
}

/// Reference implementation composed of MLX operations.
///
/// # Errors
/// Incompatible shapes.
pub fn reference(a: &Array, b: &Array, transpose: Transpose) -> MlxResult<Array> {
    let swap_if = |x: &Array, flag: bool| if flag { x.swap_axes(-1, -2) } else { Ok(x.clone()) };
    swap_if(a, transpose.a)?.matmul(swap_if(b, transpose.b)?)
}

/// Extents of one product; `batch` products of `m × k` by `k × n`.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    /// Every product of the batch uses the same `b`.
    shared_b: bool,
}

impl Geometry {
    fn of(a: &[i32], b: &[i32], transpose: Transpose) -> MlxResult<Self> {
        let mismatch =
            || Exception::custom(format!("matmul: shapes {a:?} and {b:?} do not fit ({transpose:?})"));
        let matrix = |shape: &[i32], flag: bool| match *shape {
            [.., rows, cols] if flag => Some((cols as usize, rows as usize)),
            [.., rows, cols] => Some((rows as usize, cols as usize)),
            _ => None,
        };
        let (m, k) = matrix(a, transpose.a).ok_or_else(mismatch)?;
        let (k_b, n) = matrix(b, transpose.b).ok_or_else(mismatch)?;
        let shared_b = b.len() == 2;
        if k != k_b || !(shared_b || a[..a.len() - 2] == b[..b.len() - 2]) {
            return Err(mismatch());
        }
        let batch = a[..a.len() - 2].iter().map(|&dim| dim as usize).product();
        Ok(Self { batch, m, n, k, shared_b })
    }
}

struct MatMul {
    transpose: Transpose,
}

impl HostOp for MatMul {
    const NAME: &'static std::ffi::CStr = c"EatMatMul";

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        let (a, b) = (&inputs[0], &inputs[1]);
        // Checked when the node was built; the shapes are the same ones.
        if let Ok(geometry) = Geometry::of(a.shape, b.shape, self.transpose) {
            cpu::run(Isa::current(), geometry, self.transpose, &a.data, &b.data, &mut outputs[0].data);
        }
    }

    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>> {
        let (a, b, grad) = (&ctx.inputs[0], &ctx.inputs[1], &ctx.cotangents[0]);
        argnums.iter().map(|&n| if n == 0 { self.grad_a(b, grad) } else { self.grad_b(a, b, grad) }).collect()
    }
}

impl MatMul {
    fn grad_a(&self, b: &Array, grad: &Array) -> MlxResult<Array> {
        let Transpose { a: transposed, b: b_transposed } = self.transpose;
        if !transposed {
            return matmul(grad, b, Transpose { a: false, b: !b_transposed });
        }
        // `b` leads here, so a shared one must be given the batch of `grad`.
        let b = if b.ndim() < grad.ndim() {
            let mut shape = grad.shape()[..grad.ndim() - 2].to_vec();
            shape.extend(b.shape());
            mlx_rs::ops::broadcast_to(b, &shape)?
        } else {
            b.clone()
        };
        matmul(&b, grad, Transpose { a: b_transposed, b: true })
    }

    fn grad_b(&self, a: &Array, b: &Array, grad: &Array) -> MlxResult<Array> {
        let Transpose { a: a_transposed, b: transposed } = self.transpose;
        let product = |a: &Array, grad: &Array| {
            if transposed {
                matmul(grad, a, Transpose { a: true, b: a_transposed })
            } else {
                matmul(a, grad, Transpose { a: !a_transposed, b: false })
            }
        };
        if b.ndim() == a.ndim() {
            return product(a, grad);
        }
        if a_transposed {
            return product(a, grad)?.sum_axes(&(0..a.ndim() as i32 - 2).collect::<Vec<_>>(), false);
        }
        // A shared `b` sees the rows of the whole batch: one long product instead of a sum.
        let rows = |x: &Array| x.reshape(&[-1, x.dim(-1)]);
        product(&rows(a)?, &rows(grad)?)
    }
}

#[cfg(test)]
mod tests;
