//! A Rust kernel as a node of the MLX graph: lazy, differentiable, on the CPU stream.

use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, Stream};
use mlx_sys::{eat_buffer, eat_host_op, mlx_array};

use crate::{Error, Result};

/// What a kernel must tell to become a node.
///
/// Shapes and dtypes are checked before the node is built, so `eval` cannot fail;
/// a panic in it is caught and comes back as an error of [`eval`](self::eval()).
pub(super) trait HostOp: Send + Sync + 'static {
    /// Shown by MLX in graphs and messages.
    const NAME: &'static CStr;

    /// Fills the output; every operand is row-major. Runs on MLX's CPU thread.
    fn eval(&self, inputs: &[Operand], output: &mut OperandMut);

    /// Gradients of the inputs named by `argnums`, given the gradient of the output.
    fn vjp(
        &self,
        inputs: &[Array],
        cotangent: &Array,
        argnums: &[usize],
    ) -> std::result::Result<Vec<Array>, Exception>;
}

/// Elements of one operand.
pub(super) enum Slice<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

/// A row-major input.
pub(super) struct Operand<'a> {
    pub shape: &'a [i32],
    pub data: Slice<'a>,
}

/// Elements of the output.
pub(super) enum SliceMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    Bf16(&'a mut [bf16]),
}

/// The row-major output, uninitialised: every element must be written.
pub(super) struct OperandMut<'a> {
    pub data: SliceMut<'a>,
}

/// First panic of a kernel since the last [`eval`].
static FAILURE: Mutex<Option<String>> = Mutex::new(None);

/// Evaluates `arrays`, and reports what went wrong in a kernel while doing so.
///
/// # Errors
/// What MLX raised, or the message of a kernel that panicked.
pub fn eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    let outcome = mlx_rs::transforms::eval(arrays);
    match FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(message) => Err(Error::Hardware(format!("a CPU kernel failed: {message}"))),
        None => Ok(outcome?),
    }
}

/// Builds the node of `op` over `inputs` with one output of `shape` and `dtype`.
pub(super) fn apply<O: HostOp>(
    op: O,
    inputs: &[&Array],
    shape: &[i32],
    dtype: Dtype,
) -> std::result::Result<Array, Exception> {
    let host_op = eat_host_op {
        context: Box::into_raw(Box::new(op)).cast::<c_void>(),
        name: O::NAME.as_ptr(),
        eval: Some(eval_trampoline::<O>),
        vjp: Some(vjp_trampoline::<O>),
        drop: Some(drop_trampoline::<O>),
    };
    let handles: Vec<mlx_array> = inputs.iter().map(|array| array.as_ptr()).collect();
    let stream = Stream::thread_local_or_default();
    let dtype: mlx_sys::mlx_dtype = dtype.into();
    let ndim = shape.len();
    // SAFETY: all pointers outlive the call, the counts are the slices' lengths, and the
    // shim owns `context` from here on. `result` is a fresh handle that `Array` adopts.
    unsafe {
        let mut result = mlx_sys::mlx_array_new();
        let status = mlx_sys::eat_host_op_apply(
            &raw mut result,
            host_op,
            handles.as_ptr(),
            handles.len(),
            shape.as_ptr(),
            &raw const ndim,
            &raw const dtype,
            1,
            stream.as_ptr(),
        );
        let result = Array::from_ptr(result);
        match status {
            0 => Ok(result),
            _ => Err(Exception::custom(format!("MLX rejected the operation {:?}", O::NAME))),
        }
    }
}

unsafe extern "C" fn eval_trampoline<O: HostOp>(
    context: *mut c_void,
    inputs: *const eat_buffer,
    num_inputs: usize,
    outputs: *const eat_buffer,
    _num_outputs: usize,
) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `apply` put a boxed `O` behind `context`; the shim passes `num_inputs` live,
        // row-major buffers and one output that nothing else refers to.
        let (op, inputs, output) = unsafe {
            let inputs = std::slice::from_raw_parts(inputs, num_inputs);
            (&*context.cast::<O>(), inputs, &*outputs)
        };
        let inputs: Vec<Operand> = inputs.iter().map(operand).collect();
        op.eval(&inputs, &mut operand_mut(output));
    }));
    if let Err(panic) = outcome {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("panic without a message");
        FAILURE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| format!("{:?}: {message}", O::NAME));
    }
}

unsafe extern "C" fn vjp_trampoline<O: HostOp>(
    context: *mut c_void,
    primals: *const mlx_array,
    num_primals: usize,
    cotangents: *const mlx_array,
    num_cotangents: usize,
    argnums: *const i32,
    num_argnums: usize,
    _outputs: *const mlx_array,
    _num_outputs: usize,
    grads: *mut mlx_array,
) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `context` as above; the handles are live for the call, and `grads` has
        // room for `num_argnums` handles.
        let (op, primals, cotangents, argnums, grads) = unsafe {
            (
                &*context.cast::<O>(),
                borrow(primals, num_primals),
                borrow(cotangents, num_cotangents),
                std::slice::from_raw_parts(argnums, num_argnums),
                std::slice::from_raw_parts_mut(grads, num_argnums),
            )
        };
        let argnums: Vec<usize> = argnums.iter().map(|&n| n.unsigned_abs() as usize).collect();
        let cotangent = cotangents.first()?;
        let result = op.vjp(&primals, cotangent, &argnums).ok()?;
        for (slot, grad) in grads.iter_mut().zip(result) {
            *slot = grad.as_ptr();
            // The shim takes over the reference.
            std::mem::forget(grad);
        }
        Some(())
    }));
    i32::from(!matches!(outcome, Ok(Some(()))))
}

unsafe extern "C" fn drop_trampoline<O: HostOp>(context: *mut c_void) {
    // SAFETY: the shim calls this once, with the pointer `apply` made from a box.
    drop(unsafe { Box::from_raw(context.cast::<O>()) });
}

/// New references to the arrays behind borrowed handles.
///
/// # Safety
/// `handles` points to `count` live handles.
unsafe fn borrow(handles: *const mlx_array, count: usize) -> Vec<Array> {
    // SAFETY: the caller vouches for the handles; `mlx_array_set` adds a reference.
    unsafe { std::slice::from_raw_parts(handles, count) }
        .iter()
        .map(|&handle| unsafe {
            let mut copy = mlx_sys::mlx_array_new();
            mlx_sys::mlx_array_set(&raw mut copy, handle);
            Array::from_ptr(copy)
        })
        .collect()
}

fn operand(buffer: &eat_buffer) -> Operand<'_> {
    // SAFETY: the shim's buffers hold `size` elements of `dtype` and `ndim` dimensions, and
    // live as long as the task that borrows them.
    unsafe {
        Operand {
            shape: slice(buffer.shape, buffer.ndim),
            data: match buffer.dtype {
                mlx_sys::mlx_dtype__MLX_FLOAT32 => Slice::F32(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_FLOAT16 => Slice::F16(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_BFLOAT16 => Slice::Bf16(slice(buffer.data.cast(), buffer.size)),
                other => unreachable!("kernels check dtypes before they build a node, got {other}"),
            },
        }
    }
}

fn operand_mut(buffer: &eat_buffer) -> OperandMut<'_> {
    // SAFETY: as in `operand`; the output was allocated for this evaluation alone.
    unsafe {
        OperandMut {
            data: match buffer.dtype {
                mlx_sys::mlx_dtype__MLX_FLOAT32 => SliceMut::F32(slice_mut(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_FLOAT16 => SliceMut::F16(slice_mut(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_BFLOAT16 => {
                    SliceMut::Bf16(slice_mut(buffer.data.cast(), buffer.size))
                }
                other => unreachable!("kernels check dtypes before they build a node, got {other}"),
            },
        }
    }
}

/// An empty array has a null pointer in MLX, which Rust's slices must not hold.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    // SAFETY: the caller vouches for `len` elements at `data`.
    if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, len) } }
}

unsafe fn slice_mut<'a, T>(data: *mut T, len: usize) -> &'a mut [T] {
    // SAFETY: the caller vouches for `len` elements at `data` that nothing else refers to.
    if len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(data, len) } }
}
