//! Rust closures that MLX calls.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_sys::{mlx_array, mlx_closure, mlx_vector_array};

use crate::error::MlxResult;

/// First error of a closure; MLX itself only sees a nonzero status.
type Failure = Arc<Mutex<Option<Exception>>>;

struct Call<F> {
    function: F,
    failure: Failure,
}

/// A closure on arrays valid for `'f`, or an MLX transform of one.
pub(crate) struct Closure<'f> {
    handle: mlx_closure,
    failure: Failure,
    function: PhantomData<&'f ()>,
}

impl<'f> Closure<'f> {
    /// Wraps `function`.
    ///
    /// # Safety
    /// Transforms of the closure call it neither after `'f` nor reentrantly.
    pub(crate) unsafe fn new<F>(function: F) -> Self
    where
        F: FnMut(&[Array]) -> MlxResult<Vec<Array>> + 'f,
    {
        let failure = Failure::default();
        let call = Box::new(Call { function, failure: failure.clone() });
        let payload = Box::into_raw(call).cast::<c_void>();
        // SAFETY: MLX owns the payload from here on and gives it to `run` until it gives it to `drop_call`, once.
        let handle =
            unsafe { mlx_sys::mlx_closure_new_func_payload(Some(run::<F>), payload, Some(drop_call::<F>)) };
        Self { handle, failure, function: PhantomData }
    }

    /// Applies a function transform of MLX, which reads its second argument and writes its first.
    ///
    /// # Errors
    /// A nonzero status.
    pub(crate) fn transformed(
        self,
        transform: impl FnOnce(*mut mlx_closure, mlx_closure) -> c_int,
    ) -> MlxResult<Self> {
        // SAFETY: takes nothing.
        let mut handle = unsafe { mlx_sys::mlx_closure_new() };
        let status = transform(&raw mut handle, self.handle);
        let transformed = Self { handle, failure: self.failure.clone(), function: PhantomData };
        if status == 0 { Ok(transformed) } else { Err(Exception::custom("MLX rejected a function")) }
    }

    /// Calls the closure.
    ///
    /// # Errors
    /// Errors of the closure or of MLX.
    pub(crate) fn apply(&self, inputs: &[Array]) -> MlxResult<Vec<Array>> {
        let handles: Vec<mlx_array> = inputs.iter().map(Array::as_ptr).collect();
        // SAFETY: all handles are live; those of the vectors are made, used and freed here, and `arrays` adds
        // references of its own.
        let (status, outputs) = unsafe {
            let arguments = mlx_sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len());
            let mut outputs = mlx_sys::mlx_vector_array_new();
            let status = mlx_sys::mlx_closure_apply(&raw mut outputs, self.handle, arguments);
            let results = if status == 0 { arrays(outputs) } else { Vec::new() };
            mlx_sys::mlx_vector_array_free(arguments);
            mlx_sys::mlx_vector_array_free(outputs);
            (status, results)
        };
        match (status, self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()) {
            (0, None) => Ok(outputs),
            (_, Some(error)) => Err(error),
            (_, None) => Err(Exception::custom("MLX rejected the graph of a function")),
        }
    }
}

impl Drop for Closure<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's own.
        unsafe { mlx_sys::mlx_closure_free(self.handle) };
    }
}

unsafe extern "C" fn run<F>(
    results: *mut mlx_vector_array,
    inputs: mlx_vector_array,
    payload: *mut c_void,
) -> c_int
where
    F: FnMut(&[Array]) -> MlxResult<Vec<Array>>,
{
    // SAFETY: MLX passes the payload of `Closure::new`, whose caller vouches that nothing else uses it now, a live
    // vector, and a place for another one.
    unsafe {
        let call = &mut *payload.cast::<Call<F>>();
        let outcome = catch_unwind(AssertUnwindSafe(|| (call.function)(&arrays(inputs))));
        match outcome.unwrap_or_else(|_| Err(Exception::custom("a function that MLX called panicked"))) {
            Ok(outputs) => {
                let handles: Vec<mlx_array> = outputs.iter().map(Array::as_ptr).collect();
                let vector = mlx_sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len());
                let status = mlx_sys::mlx_vector_array_set(results, vector);
                mlx_sys::mlx_vector_array_free(vector);
                status
            }
            Err(error) => {
                call.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                1
            }
        }
    }
}

unsafe extern "C" fn drop_call<F>(payload: *mut c_void) {
    // SAFETY: MLX calls this once, with the pointer that `Closure::new` made from a box.
    drop(unsafe { Box::from_raw(payload.cast::<Call<F>>()) });
}

/// New references to the arrays of a vector.
///
/// # Safety
/// `vector` is live.
unsafe fn arrays(vector: mlx_vector_array) -> Vec<Array> {
    // SAFETY: the caller vouches for the vector, and the indices are below its size.
    unsafe {
        (0..mlx_sys::mlx_vector_array_size(vector))
            .map(|index| {
                let mut array = mlx_sys::mlx_array_new();
                mlx_sys::mlx_vector_array_get(&raw mut array, vector, index);
                Array::from_ptr(array)
            })
            .collect()
    }
}
