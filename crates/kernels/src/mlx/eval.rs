//! Evaluation, with the kernel failures that MLX cannot propagate.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use mlx_rs::Array;
use mlx_sys::eat_buffer;

use super::buffer::{operand, operand_mut};
use super::op::AnyOp;
use crate::runtime::operand::{Operand, OperandMut};
use crate::{Error, Result};

/// First kernel failure since the last [`eval`].
static FAILURE: Mutex<Option<String>> = Mutex::new(None);

/// Evaluates `arrays` and returns when they are computed.
///
/// # Errors
/// The message of a kernel that panicked, or an exception raised by MLX.
pub fn eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    let outcome = mlx_rs::transforms::eval(arrays);
    failure()?;
    Ok(outcome?)
}

/// Starts evaluating `arrays` and returns immediately; kernel failures are reported by the next [`eval`].
///
/// # Errors
/// An exception raised by MLX.
pub fn async_eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    Ok(mlx_rs::transforms::async_eval(arrays)?)
}

/// Returns and clears the first kernel failure since the last call.
///
/// # Errors
/// The message of a kernel that panicked.
pub(crate) fn failure() -> Result<()> {
    match FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(message) => Err(Error::Hardware(format!("a CPU kernel failed: {message}"))),
        None => Ok(()),
    }
}

/// Evaluates `op`; a panic is stored for [`eval`](self::eval()).
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

/// Stores the first failure for [`eval`](self::eval()), since MLX callbacks cannot return errors.
pub(super) fn note_failure(name: &CStr, message: &str) {
    FAILURE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_with(|| format!("{}: {message}", name.to_string_lossy()));
}
