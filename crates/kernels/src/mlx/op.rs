//! A Rust kernel as a node of the MLX graph: lazy, differentiable, on the CPU stream.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use crate::error::MlxResult;
use crate::runtime::operand::{Operand, OperandMut};

/// What a kernel must tell to become a node.
///
/// Shapes and dtypes are checked before the node is built, so `eval` cannot fail;
/// a panic in it is caught and comes back as an error of [`eval`](crate::eval()).
pub(crate) trait HostOp: Send + Sync + 'static {
    /// Shown by MLX in graphs and messages.
    const NAME: &'static CStr;

    /// Input whose memory each output takes over when nothing else needs it and shape and dtype are the
    /// same, so that what stays need not be copied. `eval` then sees that input without elements, and the
    /// output filled with them.
    fn donors(&self, _inputs: usize, outputs: usize) -> Vec<Option<usize>> {
        vec![None; outputs]
    }

    /// Fills the outputs; every operand is row-major. Runs on MLX's CPU thread.
    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]);

    /// Gradients of the inputs named by `argnums`, in that order.
    fn vjp(&self, ctx: &VjpContext, argnums: &[usize]) -> MlxResult<Vec<Array>>;

    /// How often `eval` can follow the first one on a [tape](crate::mlx::tape); fewer than always only where outputs
    /// continue their donors.
    fn runs_left(&self) -> usize {
        usize::MAX
    }

    /// Comes before each further `eval` on a tape. Outputs that continue a donor hold what the last one left.
    fn advance(&self) {}
}

/// A [`HostOp`] of any type.
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

/// What a gradient is computed from.
pub(crate) struct VjpContext {
    /// Inputs of the node.
    pub inputs: Vec<Array>,
    /// Its outputs.
    pub outputs: Vec<Array>,
    /// Gradients of the outputs; zeros for an output nobody used.
    pub cotangents: Vec<Array>,
}

/// The gradient of a node whose gradient is asked for by nobody.
pub(crate) fn no_gradient(name: &CStr) -> MlxResult<Vec<Array>> {
    Err(Exception::custom(format!("{name:?} has no gradient of its own")))
}
