use half::{bf16, f16};

use super::*;
use crate::testing::{FLOATS, assert_close, difference, draw, gradients, tolerance, unaligned};

const ALL: [Activation; 4] =
    [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu];

/// `act(x)` in f64.
fn exact(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => {
            // The series Φ(x) = 1/2 + φ(x)·(x + x³/3 + x⁵/15 + …), which converges everywhere.
            let (mut term, mut sum, mut n) = (x, x, 1.0);
            while term.abs() > 1e-18 {
                n += 2.0;
                term *= x * x / n;
                sum += term;
            }
            x * (0.5 + (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt() * sum)
        }
        Activation::QuickGelu => x / (1.0 + (-f64::from(cpu::QUICK) * x).exp()),
        Activation::GeluTanh => {
            let inner = f64::from(cpu::SQRT_2_OVER_PI) * (x + f64::from(cpu::CUBIC) * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

fn kernels_equal_f64<T: Element>(dtype: Dtype) {
    for (isa, len) in Isa::available().flat_map(|isa| [0, 1, 33, 513, 40_000].map(|len| (isa, len))) {
        let [gate, up, grad] = [1, 2, 3].map(|seed| unaligned::<T>(len, seed));
        let [gate, up, grad] = [&gate[1..], &up[1..], &grad[1..]];
        let mut outputs = [1, 2].map(|_| vec![T::from_f32(f32::NAN); len + 1]);
        let [first, second] = &mut outputs;
        let (first, second) = (&mut first[1..], &mut second[1..]);
        let wide = |row: &[T]| -> Vec<f64> { row.iter().map(|&x| f64::from(Element::to_f32(x))).collect() };
        let (x, y, g) = (wide(gate), wide(up), wide(grad));
        for activation in ALL {
            let close = |row: &[T], expected: &dyn Fn(usize) -> f64, slack: f64| {
                let expected: Vec<f64> = (0..len).map(expected).collect();
                let error = difference(&wide(row), &expected);
                assert!(error <= tolerance(dtype) + slack, "{isa:?} {dtype:?} {len} {activation:?}: {error}");
            };
            cpu::gated(isa, activation, gate, up, first);
            close(first, &|i| exact(activation, x[i]) * y[i], 0.0);
            cpu::gated_backward(isa, activation, [gate, up, grad], [first, second]);
            let slope = |x: f64| (exact(activation, x + 1e-5) - exact(activation, x - 1e-5)) / 2e-5;
            close(first, &|i| g[i] * y[i] * slope(x[i]), 1e-8);
            close(second, &|i| g[i] * exact(activation, x[i]), 0.0);
            cpu::activate(isa, activation, gate, first);
            close(first, &|i| exact(activation, x[i]), 0.0);
            cpu::activate_backward(isa, activation, [gate, grad], first);
            close(first, &|i| g[i] * slope(x[i]), 1e-8);
        }
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
    for (activation, dtype) in ALL.into_iter().flat_map(|activation| FLOATS.map(|dtype| (activation, dtype)))
    {
        let inputs = [1, 2].map(|seed| draw(&[3, 70], dtype, seed));
        let context = format!("{activation:?} {dtype:?}");
        let ours = gated(activation, &inputs[0], &inputs[1]).unwrap();
        assert_close(&ours, &reference(activation, &inputs[0], &inputs[1]).unwrap(), &context);
        let x = &inputs[0];
        let plain = activate(activation, x).unwrap();
        assert_close(&plain, &activate_reference(activation, x).unwrap(), &context);
        if dtype == Dtype::Float32 {
            let slope = |f: fn(Activation, &Array) -> MlxResult<Array>| {
                gradients(|x| Ok(vec![f(activation, &x[0])?]), &inputs[..1], &[0]).swap_remove(0)
            };
            assert_close(&slope(activate), &slope(activate_reference), &context);
            for argnums in [&[0, 1][..], &[1]] {
                let grads = |f: fn(Activation, &Array, &Array) -> MlxResult<Array>| {
                    gradients(|x| Ok(vec![f(activation, &x[0], &x[1])?]), &inputs, argnums)
                };
                for (x, y) in grads(gated).iter().zip(&grads(reference)) {
                    assert_close(x, y, &context);
                }
            }
        }
    }
}

#[test]
fn far_values_saturate() {
    for activation in ALL {
        let gate = Array::from_slice(&[-1000.0_f32, 1000.0, 0.0], &[3]);
        let one = Array::ones::<f32>(&[3]).unwrap();
        let y = gated(activation, &gate, &one).unwrap();
        let grads = gradients(|x| Ok(vec![gated(activation, &x[0], &one)?]), &[gate], &[0]);
        assert_eq!(crate::testing::values(&y), [0.0, 1000.0, 0.0], "{activation:?}");
        assert!(crate::testing::values(&grads[0]).iter().all(|g| g.is_finite()), "{activation:?}");
    }
}

#[test]
fn misfit_names_both_shapes() {
    let [x, y] = [[2, 3], [3, 2]].map(|shape| draw(&shape, Dtype::Float32, 1));
    let message = gated(Activation::Silu, &x, &y).unwrap_err().what().to_owned();
    assert!(message.contains("[2, 3]") && message.contains("[3, 2]"), "{message}");
}
