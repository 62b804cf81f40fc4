//! Construction of graph nodes.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, Stream};
use mlx_sys::{eat_buffer, eat_host_op, mlx_array};

use super::eval::{note_failure, run};
use super::op::{HostOp, VjpContext};
use super::tape;
use crate::error::MlxResult;

/// Adds `op` to the graph, with one output of `shape` and `dtype`.
///
/// # Errors
/// An exception raised by MLX.
pub(crate) fn apply<O: HostOp>(op: O, inputs: &[&Array], shape: &[i32], dtype: Dtype) -> MlxResult<Array> {
    let mut outputs = apply_many(op, inputs, &[(shape, dtype)])?;
    outputs.pop().ok_or_else(|| Exception::custom("a node without outputs"))
}

/// Adds `op` to the graph, with one output per shape and dtype.
///
/// # Errors
/// An exception raised by MLX.
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
                tape::record_node(|| (op, inputs, &results));
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
                VjpContext {
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
