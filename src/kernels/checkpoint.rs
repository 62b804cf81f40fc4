//! [Gradient checkpointing](https://arxiv.org/abs/1604.06174): memory for time. What a function computes on the way to
//! its outputs is not kept for the gradient, but computed again when the gradient is.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_sys::{mlx_array, mlx_closure, mlx_vector_array};

use super::op::MlxResult;

/// The first error of a function, which MLX only calls a number that is not zero.
type Failure = Arc<Mutex<Option<Exception>>>;

struct Call<F> {
    function: F,
    failure: Failure,
}

/// `function` of `inputs`. Gradients reach `inputs` only, whatever else the function has in it, and for them it is
/// called again: it must be the same each time.
///
/// # Errors
/// Those of `function`.
pub fn checkpoint<F>(inputs: &[Array], function: F) -> MlxResult<Vec<Array>>
where
    F: Fn(&[Array]) -> MlxResult<Vec<Array>> + Send + 'static,
{
    let failure = Failure::default();
    let call = Box::new(Call { function, failure: failure.clone() });
    let handles: Vec<mlx_array> = inputs.iter().map(Array::as_ptr).collect();
    // SAFETY: MLX owns the payload from here on and gives it to `call` until it gives it to `drop_call`, once.
    // All other handles are made, used and freed here; `arrays` adds references of its own.
    let (status, outputs) = unsafe {
        let payload = Box::into_raw(call).cast::<c_void>();
        let plain = mlx_sys::mlx_closure_new_func_payload(Some(run::<F>), payload, Some(drop_call::<F>));
        let mut checkpointed: mlx_closure = mlx_sys::mlx_closure_new();
        let mut outputs: mlx_vector_array = mlx_sys::mlx_vector_array_new();
        let arguments = mlx_sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len());
        let mut status = mlx_sys::mlx_checkpoint(&raw mut checkpointed, plain);
        if status == 0 {
            status = mlx_sys::mlx_closure_apply(&raw mut outputs, checkpointed, arguments);
        }
        let results = if status == 0 { arrays(outputs) } else { Vec::new() };
        mlx_sys::mlx_vector_array_free(arguments);
        mlx_sys::mlx_vector_array_free(outputs);
        mlx_sys::mlx_closure_free(checkpointed);
        mlx_sys::mlx_closure_free(plain);
        (status, results)
    };
    match (status, failure.lock().unwrap_or_else(PoisonError::into_inner).take()) {
        (0, None) => Ok(outputs),
        (_, Some(error)) => Err(error),
        (_, None) => Err(Exception::custom("MLX rejected a function to be checkpointed")),
    }
}

unsafe extern "C" fn run<F>(
    results: *mut mlx_vector_array,
    inputs: mlx_vector_array,
    payload: *mut c_void,
) -> c_int
where
    F: Fn(&[Array]) -> MlxResult<Vec<Array>>,
{
    // SAFETY: MLX passes the payload of `checkpoint`, a live vector, and a place for another one.
    unsafe {
        let call = &*payload.cast::<Call<F>>();
        let outcome = catch_unwind(AssertUnwindSafe(|| (call.function)(&arrays(inputs))));
        let outcome = outcome.unwrap_or_else(|_| Err(Exception::custom("a checkpointed function panicked")));
        match outcome {
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
    // SAFETY: MLX calls this once, with the pointer that `checkpoint` made from a box.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use mlx_rs::transforms::value_and_grad_with_argnums;

    use super::*;

    #[test]
    fn gradients_are_those_without_and_the_function_runs_twice() {
        let x = Array::from_slice(&[0.5_f32, -1.5, 2.0], &[3]);
        let cubic = |x: &[Array]| Ok(vec![x[0].multiply(&x[0])?.multiply(&x[1])?]);
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let loss = move |inputs: &[Array]| -> MlxResult<Vec<Array>> {
            let counted = counted.clone();
            let outputs = checkpoint(inputs, move |x| {
                counted.fetch_add(1, Ordering::Relaxed);
                cubic(x)
            })?;
            Ok(vec![outputs[0].sum(None)?])
        };
        let inputs = [x.clone(), x];
        let (value, grads) = value_and_grad_with_argnums(loss, &[0, 1][..])(&inputs).unwrap();
        assert!((value[0].item_exact::<f32>() - 4.75).abs() < 1e-6);
        assert_eq!(grads[0].as_slice::<f32>(), [0.5, 4.5, 8.0]);
        assert_eq!(grads[1].as_slice::<f32>(), [0.25, 2.25, 4.0]);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn errors_and_panics_come_back() {
        let x = Array::from_slice(&[1.0_f32, 2.0], &[2]);
        let inputs = std::slice::from_ref(&x);
        let error = checkpoint(inputs, |_| Err(Exception::custom("no such thing"))).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
        let error = checkpoint(inputs, |_| panic!("on purpose")).unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}
