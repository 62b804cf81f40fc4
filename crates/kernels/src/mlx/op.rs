//! A Rust kernel as a node of the MLX graph: lazy, differentiable, on the CPU stream.

use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use half::{bf16, f16};
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, Stream};
use mlx_sys::{eat_buffer, eat_host_op, mlx_array};

use crate::mlx::tape;
use crate::{Error, Result};

/// What a kernel must tell to become a node.
///
/// Shapes and dtypes are checked before the node is built, so `eval` cannot fail;
/// a panic in it is caught and comes back as an error of [`eval`](self::eval()).
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
    fn vjp(&self, pass: &Backward, argnums: &[usize]) -> MlxResult<Vec<Array>>;

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
pub(crate) struct Backward {
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

pub(crate) type MlxResult<T> = std::result::Result<T, Exception>;

/// Elements of one operand.
#[derive(Clone, Copy)]
pub(crate) enum Slice<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    U32(&'a [u32]),
    I32(&'a [i32]),
    U8(&'a [u8]),
}

/// A row-major input.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub shape: &'a [i32],
    pub data: Slice<'a>,
}

/// Elements of an output.
pub(crate) enum SliceMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    Bf16(&'a mut [bf16]),
}

/// A row-major output: every element must be written, as none is set unless a donor gave its own.
pub(crate) struct OperandMut<'a> {
    pub shape: &'a [i32],
    pub data: SliceMut<'a>,
}

/// Calls `$body` with `$x` bound to the slice of any floating-point operand.
macro_rules! with_floats {
    ($kind:ident, $data:expr, $x:ident => $body:expr) => {
        match $data {
            $crate::mlx::op::$kind::F32($x) => $body,
            $crate::mlx::op::$kind::F16($x) => $body,
            $crate::mlx::op::$kind::Bf16($x) => $body,
            #[allow(unreachable_patterns)]
            _ => unreachable!("kernels check dtypes before they build a node"),
        }
    };
}
pub(crate) use with_floats;

/// First panic of a kernel since the last [`eval`].
static FAILURE: Mutex<Option<String>> = Mutex::new(None);

/// Evaluates `arrays`, and reports what went wrong in a kernel while doing so.
///
/// # Errors
/// What MLX raised, or the message of a kernel that panicked.
pub fn eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    let outcome = mlx_rs::transforms::eval(arrays);
    failure()?;
    Ok(outcome?)
}

/// Starts to evaluate `arrays`; what goes wrong in a kernel meanwhile is reported by the next [`eval`].
///
/// # Errors
/// What MLX raised.
pub fn async_eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    Ok(mlx_rs::transforms::async_eval(arrays)?)
}

/// Reports what went wrong in a kernel since the last call.
///
/// # Errors
/// The message of a kernel that panicked.
pub(crate) fn failure() -> Result<()> {
    match FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(message) => Err(Error::Hardware(format!("a CPU kernel failed: {message}"))),
        None => Ok(()),
    }
}

/// Builds the node of `op` over `inputs` with one output of `shape` and `dtype`.
pub(crate) fn apply<O: HostOp>(op: O, inputs: &[&Array], shape: &[i32], dtype: Dtype) -> MlxResult<Array> {
    let mut outputs = apply_many(op, inputs, &[(shape, dtype)])?;
    outputs.pop().ok_or_else(|| Exception::custom("a node without outputs"))
}

/// Builds the node of `op` over `inputs`, with one output per shape and dtype.
pub(crate) fn apply_many<O: HostOp>(
    op: O,
    inputs: &[&Array],
    outputs: &[(&[i32], Dtype)],
) -> MlxResult<Vec<Array>> {
    let donors = HostOp::donors(&op, inputs.len(), outputs.len());
    let donors: Vec<i32> = donors.into_iter().map(|donor| donor.map_or(-1, |input| input as i32)).collect();
    debug_assert_eq!(donors.len(), outputs.len());
    let op = Arc::new(op);
    let host_op = eat_host_op {
        context: Arc::into_raw(op.clone()).cast_mut().cast::<c_void>(),
        name: O::NAME.as_ptr(),
        eval: Some(eval_trampoline::<O>),
        vjp: Some(vjp_trampoline::<O>),
        drop: Some(drop_trampoline::<O>),
    };
    let handles: Vec<mlx_array> = inputs.iter().map(|array| array.as_ptr()).collect();
    let stream = Stream::thread_local_or_default();
    let shapes: Vec<i32> = outputs.iter().flat_map(|(shape, _)| *shape).copied().collect();
    let ndims: Vec<usize> = outputs.iter().map(|(shape, _)| shape.len()).collect();
    let dtypes: Vec<mlx_sys::mlx_dtype> = outputs.iter().map(|&(_, dtype)| dtype.into()).collect();
    // SAFETY: all pointers outlive the call, the counts are the slices' lengths, and the
    // shim owns `context` from here on. `results` are fresh handles that `Array` adopts.
    unsafe {
        let mut results: Vec<mlx_array> = outputs.iter().map(|_| mlx_sys::mlx_array_new()).collect();
        let status = mlx_sys::eat_host_op_apply(
            results.as_mut_ptr(),
            host_op,
            handles.as_ptr(),
            handles.len(),
            shapes.as_ptr(),
            ndims.as_ptr(),
            dtypes.as_ptr(),
            donors.as_ptr(),
            outputs.len(),
            stream.as_ptr(),
        );
        let results: Vec<Array> = results.into_iter().map(|result| Array::from_ptr(result)).collect();
        match status {
            0 => {
                tape::note(|| (op, inputs, &results));
                Ok(results)
            }
            _ => Err(Exception::custom(format!("MLX rejected the operation {:?}", O::NAME))),
        }
    }
}

unsafe extern "C" fn eval_trampoline<O: HostOp>(
    context: *mut c_void,
    inputs: *const eat_buffer,
    num_inputs: usize,
    outputs: *const eat_buffer,
    num_outputs: usize,
) {
    // SAFETY: `apply_many` put an `O` behind `context`; the shim passes `num_inputs` live, row-major buffers
    // and `num_outputs` that nothing else refers to.
    unsafe {
        let inputs = std::slice::from_raw_parts(inputs, num_inputs);
        run(&*context.cast::<O>(), inputs, std::slice::from_raw_parts(outputs, num_outputs));
    }
}

/// Evaluates `op`; a panic is kept for [`eval`](self::eval()).
///
/// # Safety
/// The buffers are live, row-major and of dtypes that `op` takes; nothing else refers to `outputs` meanwhile.
pub(crate) unsafe fn run(op: &dyn AnyOp, inputs: &[eat_buffer], outputs: &[eat_buffer]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let inputs: Vec<Operand> = inputs.iter().map(operand).collect();
        let mut outputs: Vec<OperandMut> = outputs.iter().map(operand_mut).collect();
        op.eval(&inputs, &mut outputs);
    }));
    if let Err(panic) = outcome {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("panic without a message");
        note_failure(op.name(), message);
    }
}

/// Keeps the first failure for [`eval`](self::eval()): nothing can be returned through MLX.
fn note_failure(name: &CStr, message: &str) {
    FAILURE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_with(|| format!("{}: {message}", name.to_string_lossy()));
}

unsafe extern "C" fn vjp_trampoline<O: HostOp>(
    context: *mut c_void,
    primals: *const mlx_array,
    num_primals: usize,
    cotangents: *const mlx_array,
    num_cotangents: usize,
    argnums: *const i32,
    num_argnums: usize,
    outputs: *const mlx_array,
    num_outputs: usize,
    grads: *mut mlx_array,
) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `context` as in `eval_trampoline`; the handles are live for the call, and `grads` has
        // room for `num_argnums` handles.
        let (op, pass, argnums, grads) = unsafe {
            (
                &*context.cast::<O>(),
                Backward {
                    inputs: borrow(primals, num_primals),
                    outputs: borrow(outputs, num_outputs),
                    cotangents: borrow(cotangents, num_cotangents),
                },
                std::slice::from_raw_parts(argnums, num_argnums),
                std::slice::from_raw_parts_mut(grads, num_argnums),
            )
        };
        let argnums: Vec<usize> = argnums.iter().map(|&n| n.unsigned_abs() as usize).collect();
        let result = op
            .vjp(&pass, &argnums)
            .inspect_err(|error| note_failure(O::NAME, &format!("gradient: {error}")))
            .ok()?;
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
    // SAFETY: the shim calls this once, with the pointer that `apply_many` got from an `Arc`.
    drop(unsafe { Arc::from_raw(context.cast::<O>()) });
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

/// Puts `numbers` in the place of those of `buffer`.
///
/// # Safety
/// The buffer is live, and nothing else refers to it.
pub(crate) unsafe fn overwrite(buffer: &eat_buffer, numbers: &[u32]) -> Result<()> {
    if buffer.dtype != mlx_sys::mlx_dtype__MLX_UINT32 || buffer.size != numbers.len() {
        let message = format!("{} numbers for a place of {}", numbers.len(), buffer.size);
        return Err(Error::Hardware(message));
    }
    // SAFETY: the caller vouches for the buffer, and the size was just compared.
    unsafe { slice_mut::<u32>(buffer.data.cast(), buffer.size) }.copy_from_slice(numbers);
    Ok(())
}

pub(crate) fn operand(buffer: &eat_buffer) -> Operand<'_> {
    // SAFETY: the shim's buffers hold `size` elements of `dtype` and `ndim` dimensions, and
    // live as long as the task that borrows them.
    unsafe {
        Operand {
            shape: slice(buffer.shape, buffer.ndim),
            data: match buffer.dtype {
                mlx_sys::mlx_dtype__MLX_FLOAT32 => Slice::F32(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_FLOAT16 => Slice::F16(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_BFLOAT16 => Slice::Bf16(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_UINT32 => Slice::U32(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_INT32 => Slice::I32(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_UINT8 => Slice::U8(slice(buffer.data.cast(), buffer.size)),
                other => unreachable!("kernels check dtypes before they build a node, got {other}"),
            },
        }
    }
}

fn operand_mut(buffer: &eat_buffer) -> OperandMut<'_> {
    // SAFETY: as in `operand`; the output was allocated for this evaluation alone.
    unsafe {
        OperandMut {
            shape: slice(buffer.shape, buffer.ndim),
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
