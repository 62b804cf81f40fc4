//! What tests of kernels share.

use mlx_rs::{Array, Dtype, random};

use crate::error::MlxResult;
use crate::eval;
use crate::runtime::element::Element;

mod shapes;

/// The formats of activations and weights.
pub(crate) const FLOATS: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

/// Rounding error of a number near one, a few times over.
pub(crate) fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Float32 => 1e-5,
        Dtype::Float16 => 4e-3,
        _ => 3e-2,
    }
}

/// Normally distributed numbers, the same in every run.
pub(crate) fn draw(shape: &[i32], dtype: Dtype, seed: u64) -> Array {
    let key = random::key(seed).unwrap();
    let x = random::normal::<f32>(shape, None, None, &key).unwrap().as_dtype(dtype).unwrap();
    eval([&x]).unwrap();
    x
}

/// Numbers in [-2, 2) , one more than asked for: leave out the first and the rest is unaligned.
pub(crate) fn unaligned<T: Element>(len: usize, seed: u32) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        T::from_f32((state >> 8) as f32 / (1 << 22) as f32 - 2.0)
    };
    (0..=len).map(|_| next()).collect()
}

/// Elements of `array`, exactly.
pub(crate) fn values(array: &Array) -> Vec<f64> {
    // MLX may leave a gradient in another order.
    let wide = array.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap();
    eval([&wide]).unwrap();
    wide.as_slice::<f32>().iter().map(|&x| f64::from(x)).collect()
}

/// The largest difference, relative to `1 + |expected|`.
pub(crate) fn difference(x: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(x.len(), expected.len());
    let error = |(x, y): (&f64, &f64)| (x - y).abs() / (1.0 + y.abs());
    x.iter().zip(expected).map(error).fold(0.0, |most, e| if e.is_nan() { e } else { e.max(most) })
}

/// Fails when the arrays differ in shape or dtype, or by more than rounding of that dtype explains.
pub(crate) fn assert_close(x: &Array, expected: &Array, context: &str) {
    assert_eq!((x.shape(), x.dtype()), (expected.shape(), expected.dtype()), "{context}");
    let worst = difference(&values(x), &values(expected));
    assert!(worst <= tolerance(x.dtype()), "{context}: {worst}");
}

/// Gradients of `Σ outputsᵢ·cᵢ`, with fixed `cᵢ`, with respect to the inputs `argnums`.
pub(crate) fn gradients(
    f: impl Fn(&[Array]) -> MlxResult<Vec<Array>>,
    inputs: &[Array],
    argnums: &[i32],
) -> Vec<Array> {
    let loss = move |inputs: &[Array]| -> MlxResult<Vec<Array>> {
        let mut loss = Array::from_f32(0.0);
        for (seed, y) in f(inputs)?.iter().enumerate() {
            let weight = draw(y.shape(), y.dtype(), 100 + seed as u64);
            loss = loss.add(y.multiply(weight)?.as_dtype(Dtype::Float32)?.sum(None)?)?;
        }
        Ok(vec![loss])
    };
    let grads = mlx_rs::transforms::value_and_grad_with_argnums(loss, argnums)(inputs).unwrap().1;
    eval(&grads).unwrap();
    grads
}
