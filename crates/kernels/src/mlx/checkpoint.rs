//! [Gradient checkpointing](https://arxiv.org/abs/1604.06174): activations are recomputed in the backward pass instead of
//! stored, trading time for memory.

use mlx_rs::Array;

use crate::error::MlxResult;
use crate::mlx::closure::Closure;

/// Applies `function` to `inputs` without keeping its intermediate results.
///
/// `function` is called again in the backward pass and must be deterministic. Gradients flow to `inputs` only, not to
/// arrays that it captures.
///
/// # Errors
/// Errors of `function`.
pub fn checkpoint<F>(inputs: &[Array], function: F) -> MlxResult<Vec<Array>>
where
    F: Fn(&[Array]) -> MlxResult<Vec<Array>> + Send + 'static,
{
    // SAFETY: the function lives as long as MLX keeps it, which calls it here and once more for the gradient.
    let closure = unsafe { Closure::new(function) };
    // SAFETY: the handles are those that `transformed` passes.
    let closure = closure.transformed(|to, from| unsafe { mlx_sys::mlx_checkpoint(to, from) })?;
    closure.apply(inputs)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use mlx_rs::error::Exception;
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
