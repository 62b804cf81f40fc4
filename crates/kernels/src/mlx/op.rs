//! Kernels as nodes of the MLX graph: lazy, differentiable, evaluated on the CPU stream.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use crate::error::MlxResult;
use crate::runtime::operand::{Operand, OperandMut};

/// A CPU operation with one or more outputs.
///
/// Shapes and dtypes are checked before the node is built, so `eval` is infallible; a panic is caught and
/// returned by [`eval`](crate::eval()).
pub(crate) trait HostOp: Send + Sync + 'static {
    /// Name of the primitive in MLX graphs and messages.
    const NAME: &'static CStr;

    /// Input donated to each output, if any.
    ///
    /// The output takes over the input's buffer if nothing else references it and shape and dtype match. `eval` then
    /// sees the input without elements, and the output with them.
    fn donors(&self, _inputs: usize, outputs: usize) -> Vec<Option<usize>> {
        vec![None; outputs]
    }

    /// Computes the outputs. All operands are row-major. Called on MLX's CPU thread.
    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]);

    /// Vector-Jacobian product: gradients with respect to the inputs `argnums`, in that order.
    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>>;

    /// Number of times a [tape](crate::mlx::tape) can replay the node; limited only if outputs extend donated inputs.
    fn runs_left(&self) -> usize {
        usize::MAX
    }

    /// Called before each replay. Outputs that extend a donated input still hold the previous result.
    fn advance(&self) {}
}

/// Object-safe part of [`HostOp`].
pub(crate) trait AnyOp: Send + Sync {
    fn name(&self) -> &'static CStr;
    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]);
    fn donors(&self, inputs: usize, outputs: usize) -> Vec<Option<usize>>;
    fn runs_left(&self) -> usize;
    fn advance(&self);
}

impl<O: HostOp> AnyOp for O {
    fn name(&self) -> &'static CStr {
        O::NAME
    }

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        HostOp::eval(self, inputs, outputs);
    }

    fn donors(&self, inputs: usize, outputs: usize) -> Vec<Option<usize>> {
        HostOp::donors(self, inputs, outputs)
    }

    fn runs_left(&self) -> usize {
        HostOp::runs_left(self)
    }

    fn advance(&self) {
        HostOp::advance(self);
    }
}

/// Context of a vector-Jacobian product.
pub(crate) struct VjpContext {
    /// Inputs of the node.
    pub inputs: Vec<Array>,
    /// Outputs of the node.
    pub outputs: Vec<Array>,
    /// Gradients of the outputs; zeros for unused ones.
    pub cotangents: Vec<Array>,
}

/// Error of a node that is not differentiable.
pub(crate) fn no_gradient(name: &CStr) -> MlxResult<Vec<Array>> {
    Err(Exception::custom(format!("{name:?} has no gradient of its own")))
}
