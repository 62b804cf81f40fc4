use half::{bf16, f16};

use super::*;
use crate::testing::{FLOATS, assert_close, difference, draw, gradients, tolerance, unaligned, values};

fn kernels_equal_f64<T: Element>(dtype: Dtype) {
    let sizes = [(0, 5), (1, 1), (3, 33), (40, 1000), (2, 20_000), (5, 0)];
    for (isa, (rows, columns)) in Isa::available().flat_map(|isa| sizes.map(|size| (isa, size))) {
        let [x, grad] = [1, 2].map(|seed| unaligned::<T>(rows * columns, seed));
        let (x, grad) = (&x[1..], &grad[1..]);
        let mut outputs = [1, 2].map(|_| vec![T::from_f32(f32::NAN); rows * columns + 1]);
        let [y, dx] = &mut outputs;
        let (y, dx) = (&mut y[1..], &mut dx[1..]);
        let wide = |row: &[T]| -> Vec<f64> { row.iter().map(|&x| f64::from(Element::to_f32(x))).collect() };
        let close = |row: &[T], expected: &[f64]| {
            let error = difference(&wide(row), expected);
            assert!(error <= tolerance(dtype), "{isa:?} {dtype:?} {rows} × {columns}: {error}");
        };
        cpu::softmax(isa, columns, x, y);
        let mut expected = wide(x);
        for row in expected.chunks_mut(columns.max(1)) {
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            for x in row {
                *x = x.exp() / sum;
            }
        }
        close(y, &expected);
        cpu::softmax_backward(isa, columns, y, grad, dx);
        let (mut expected, grads) = (wide(y), wide(grad));
        for (y, grad) in expected.chunks_mut(columns.max(1)).zip(grads.chunks(columns.max(1))) {
            let along: f64 = y.iter().zip(grad).map(|(y, grad)| y * grad).sum();
            for (y, grad) in y.iter_mut().zip(grad) {
                *y *= grad - along;
            }
        }
        close(dx, &expected);
    }
}

#[test]
fn kernels_equal_f64_on_every_instruction_set() {
    kernels_equal_f64::<f32>(Dtype::Float32);
    kernels_equal_f64::<f16>(Dtype::Float16);
    kernels_equal_f64::<bf16>(Dtype::Bfloat16);
}

#[test]
fn forward_and_gradients_equal_mlx() {
    for dtype in FLOATS {
        let inputs = [draw(&[2, 3, 50], dtype, 1)];
        assert_close(&softmax(&inputs[0]).unwrap(), &reference(&inputs[0]).unwrap(), "forward");
        let grads = |f: fn(&Array) -> MlxResult<Array>| gradients(|x| Ok(vec![f(&x[0])?]), &inputs, &[0]);
        assert_close(&grads(softmax)[0], &grads(reference)[0], "gradient");
    }
}

#[test]
fn masked_and_large_numbers() {
    let inf = f32::INFINITY;
    let x = Array::from_slice(&[-inf, 1e30, 1e30, -inf, 5.0, -inf, -inf, -inf, -inf], &[3, 3]);
    let y = values(&softmax(&x).unwrap());
    assert_eq!(y[..6], [0.0, 0.5, 0.5, 0.0, 1.0, 0.0]);
    assert!(y[6..].iter().all(|y| y.is_nan()));
}
