use half::{bf16, f16};
use mlx_rs::random;
use mlx_rs::transforms::value_and_grad_with_argnums;

use super::*;
use crate::eval;
use crate::runtime::element::Element;

fn number(i: usize) -> f32 {
    ((i * 37 + 11) % 61) as f32 / 16.0 - 1.9
}

fn exact<T: Element>(x: &[T], inv_freq: &[f64], position: i64, head_dim: usize) -> Vec<f64> {
    let mut y: Vec<f64> = x.iter().map(|x| f64::from(x.to_f32())).collect();
    for head in y.chunks_exact_mut(head_dim) {
        for (i, frequency) in inv_freq.iter().enumerate() {
            let (s, c) = (frequency * position as f64).sin_cos();
            let (a, b) = (head[i], head[i + inv_freq.len()]);
            (head[i], head[i + inv_freq.len()]) = (a * c - b * s, a * s + b * c);
        }
    }
    y
}

fn kernel_is_exact<T: Element>(tolerance: f64) {
    for (time, heads, head_dim, dims) in
        [(1, 1, 2, 2), (3, 5, 20, 12), (700, 2, 64, 64), (2, 1, 3, 0), (0, 2, 8, 8)]
    {
        let tokens = 2 * time;
        let inv_freq: Vec<f64> =
            RotaryFrequencies::periods(10_000.0, dims).iter().map(|period| 0.5 / period).collect();
        let each: Vec<i32> =
            (0..tokens).map(|i| if i % 150 == 7 { 40_000 } else { i as i32 % 100 }).collect();
        let far = cpu::Positions::Offset { first: 100_000, time: time.max(1) };
        // From one element on: kernels must not ask for aligned operands.
        let q: Vec<T> = (0..=tokens * heads * head_dim).map(|i| T::from_f32(number(i))).collect();
        let k: Vec<T> = (0..=tokens * head_dim).map(|i| T::from_f32(number(i + 5))).collect();
        for isa in Isa::available() {
            for positions in [far, cpu::Positions::Ids(&each)] {
                let (mut q_out, mut k_out) = (q.clone(), k.clone());
                let pairs = [(&q[1..], &mut q_out[1..]), (&k[1..], &mut k_out[1..])];
                cpu::rotate(isa, &inv_freq, positions, tokens, head_dim, pairs);
                for token in 0..tokens {
                    let position = match positions {
                        cpu::Positions::Offset { first, time } => i64::from(first) + (token % time) as i64,
                        cpu::Positions::Ids(each) => i64::from(each[token]),
                    };
                    for (x, y, row) in [(&q, &q_out, heads * head_dim), (&k, &k_out, head_dim)] {
                        let part = 1 + token * row..1 + (token + 1) * row;
                        let expected = exact(&x[part.clone()], &inv_freq, position, head_dim);
                        for (y, expected) in y[part].iter().zip(expected) {
                            let error = (f64::from(y.to_f32()) - expected).abs();
                            assert!(error < tolerance, "{isa:?} {token} {position}: {error}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn kernel_equals_exact_numbers() {
    kernel_is_exact::<f32>(1e-6);
    kernel_is_exact::<bf16>(2e-2);
    kernel_is_exact::<f16>(2e-3);
}

fn draw(shape: &[i32], seed: u64) -> Array {
    random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
}

fn worst(x: &Array, y: &Array) -> f32 {
    let worst = x.subtract(y).unwrap().abs().unwrap().max(None).unwrap();
    eval([&worst]).unwrap();
    worst.item_exact::<f32>()
}

#[test]
fn node_and_its_gradient_equal_mlx() {
    let (q, k) = (draw(&[2, 5, 3, 12], 1), draw(&[2, 5, 1, 12], 2));
    let weights = [draw(&[2, 5, 3, 12], 3), draw(&[2, 5, 1, 12], 4)];
    let each = Array::from_slice(&[0, 1, 2, 0, 1, 0, 1, 2, 3, 4], &[2, 5]);
    for (dims, scale) in [(12, 1.0), (8, 0.25)] {
        let rotation = RotaryFrequencies::new(&RotaryFrequencies::periods(10_000.0, dims), scale);
        for positions in [Positions::Offset(7), Positions::Ids(&each)] {
            let run = |q: &Array, k: &Array, ours: bool| {
                if ours {
                    rope(q, k, &rotation, positions).unwrap()
                } else {
                    let one = |x: &Array| reference(x, &rotation, positions).unwrap();
                    (one(q), one(k))
                }
            };
            let (ours, theirs) = (run(&q, &k, true), run(&q, &k, false));
            assert!(worst(&ours.0, &theirs.0) < 1e-5 && worst(&ours.1, &theirs.1) < 1e-5, "{positions:?}");
            let gradients = |ours: bool| {
                let loss = |inputs: &[Array]| {
                    let (q, k) = run(&inputs[0], &inputs[1], ours);
                    let sum = |x: Array, w: &Array| x.multiply(w).unwrap().sum(None).unwrap();
                    vec![sum(q, &weights[0]).add(sum(k, &weights[1])).unwrap()]
                };
                value_and_grad_with_argnums(loss, &[0, 1][..])(&[q.clone(), k.clone()]).unwrap().1
            };
            for (ours, theirs) in gradients(true).iter().zip(&gradients(false)) {
                assert!(worst(ours, theirs) < 1e-5, "{positions:?}");
            }
        }
    }
}

#[test]
fn powers_are_mlx_own() {
    let x = draw(&[1, 4, 9, 16], 1);
    let theirs = mlx_rope(&x, 16, false, 500_000.0, 1.0, 3, None).unwrap();
    let rotation = RotaryFrequencies::new(&RotaryFrequencies::periods(500_000.0, 16), 1.0);
    let rotated = x.transpose_axes(&[0, 2, 1, 3]).unwrap();
    let ours = rope(&rotated, &rotated, &rotation, Positions::Offset(3)).unwrap().0;
    assert!(worst(&ours.transpose_axes(&[0, 2, 1, 3]).unwrap(), &theirs) < 1e-5);
}

#[test]
fn misfits_are_refused() {
    let (q, k) = (draw(&[2, 5, 3, 12], 1), draw(&[2, 4, 1, 12], 2));
    let rotation = RotaryFrequencies::new(&RotaryFrequencies::periods(10_000.0, 12), 1.0);
    assert!(rope(&q, &k, &rotation, Positions::Offset(0)).is_err());
    let floats = draw(&[2, 5], 3);
    assert!(rope(&q, &q, &rotation, Positions::Ids(&floats)).is_err());
    let wide = RotaryFrequencies::new(&RotaryFrequencies::periods(10_000.0, 14), 1.0);
    assert!(rope(&q, &q, &wide, Positions::Offset(0)).is_err());
}
