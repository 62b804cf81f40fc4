use half::{bf16, f16};

use super::*;
use crate::testing::{FLOATS, assert_close, difference, draw, gradients, tolerance, unaligned, values};

/// One operation, or its reference.
type Function = fn(&[Array], RmsNormOptions) -> MlxResult<Vec<Array>>;

const EPS: f32 = 1e-5;
const SIZES: [(usize, usize); 6] = [(0, 5), (1, 1), (1, 64), (3, 33), (70, 1000), (5, 0)];

/// `(normed, r)` of one row, in f64.
fn rms_row(x: &[f64], weight: &[f64]) -> (Vec<f64>, f64) {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let r = 1.0 / (mean + f64::from(EPS)).sqrt();
    (x.iter().zip(weight).map(|(x, w)| x * r * w).collect(), r)
}

fn wide<T: Element>(row: &[T]) -> Vec<f64> {
    row.iter().map(|&x| f64::from(Element::to_f32(x))).collect()
}

fn kernels_equal_f64<T: Element>(dtype: Dtype) {
    for (isa, (rows, columns)) in Isa::available().flat_map(|isa| SIZES.map(|size| (isa, size))) {
        let context = format!("{isa:?} {dtype:?} {rows} × {columns}");
        let [x, delta, grad, sum_grad] = [1, 2, 3, 4].map(|seed| unaligned::<T>(rows * columns, seed));
        let [x, delta, grad, sum_grad] = [&x[1..], &delta[1..], &grad[1..], &sum_grad[1..]];
        let (weight, bias) = (unaligned::<f32>(columns, 5), unaligned::<f32>(columns, 6));
        let (weight, bias) = (&weight[1..], &bias[1..]);
        let mut outputs: [Vec<T>; 2] = [1, 2].map(|_| vec![T::from_f32(f32::NAN); rows * columns + 1]);
        let close = |x: &[T], expected: &[f64], what: &str| {
            let error = difference(&wide(x), expected);
            assert!(error <= tolerance(dtype), "{context} {what}: {error}");
        };
        let each_row = |x: &[T], f: &dyn Fn(&[f64]) -> Vec<f64>| -> Vec<f64> {
            wide(x).chunks(columns.max(1)).flat_map(f).collect()
        };

        let [sum, normed] = &mut outputs;
        let (sum, normed) = (&mut sum[1..], &mut normed[1..]);
        cpu::rms_norm(isa, x, weight, EPS, normed);
        close(normed, &each_row(x, &|row| rms_row(row, &wide(weight)).0), "rms_norm");

        cpu::residual_rms_norm(isa, [x, delta], weight, EPS, [sum, normed]);
        let exact: Vec<f64> = wide(x).iter().zip(wide(delta)).map(|(x, delta)| x + delta).collect();
        close(sum, &exact, "sum");
        close(normed, &each_row(sum, &|row| rms_row(row, &wide(weight)).0), "residual_rms_norm");

        let mut dweight = vec![f32::NAN; columns];
        cpu::rms_norm_backward(isa, [x, grad, sum_grad], weight, EPS, normed, &mut dweight);
        let (mut dx, mut dw) = (wide(sum_grad), vec![0.0; columns]);
        for i in 0..rows {
            let row = |of: &[T]| wide(&of[i * columns..(i + 1) * columns]);
            let (x, g) = (row(x), row(grad));
            let r = rms_row(&x, &wide(weight)).1;
            let along =
                (0..columns).map(|j| g[j] * f64::from(weight[j]) * x[j]).sum::<f64>() / columns as f64;
            for j in 0..columns {
                dx[i * columns + j] += r * g[j] * f64::from(weight[j]) - r.powi(3) * x[j] * along;
                dw[j] += g[j] * x[j] * r;
            }
        }
        close(normed, &dx, "dx");
        assert!(difference(&wide(&dweight), &dw) < 1e-5, "{context} dweight");

        cpu::layer_norm(isa, x, weight, bias, EPS, normed);
        let layer = each_row(x, &|row| {
            let mean = row.iter().sum::<f64>() / columns as f64;
            let centred: Vec<f64> = row.iter().map(|x| x - mean).collect();
            let normed = rms_row(&centred, &wide(weight)).0;
            normed.iter().zip(wide(bias)).map(|(x, bias)| x + bias).collect()
        });
        close(normed, &layer, "layer_norm");
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
    for (dtype, weight_dtype) in FLOATS
        .map(|dtype| (dtype, dtype))
        .into_iter()
        .chain([(Dtype::Bfloat16, Dtype::Float32), (Dtype::Float32, Dtype::Bfloat16)])
    {
        for (shape, offset) in [(&[2, 9, 48][..], 0.0), (&[1, 7], 1.0), (&[37, 1200], 0.0)] {
            let rms = RmsNormOptions { eps: EPS, offset };
            let hidden = &shape[shape.len() - 1..];
            let inputs = [
                draw(shape, dtype, 1),
                draw(shape, dtype, 2),
                draw(hidden, weight_dtype, 3),
                draw(hidden, weight_dtype, 4),
            ];
            let pairs: [(Function, Function); 3] = [
                (
                    |x, rms| Ok(vec![rms_norm(&x[0], &x[2], rms)?]),
                    |x, rms| Ok(vec![rms_norm_reference(&x[0], &x[2], rms)?]),
                ),
                (
                    |x, rms| residual_rms_norm(&x[0], &x[1], &x[2], rms).map(|(a, b)| vec![a, b]),
                    |x, rms| residual_rms_norm_reference(&x[0], &x[1], &x[2], rms).map(|(a, b)| vec![a, b]),
                ),
                (
                    |x, rms| Ok(vec![layer_norm(&x[0], &x[2], &x[3], rms.eps)?]),
                    |x, rms| Ok(vec![layer_norm_reference(&x[0], &x[2], &x[3], rms.eps)?]),
                ),
            ];
            for (i, (ours, mlx)) in pairs.into_iter().enumerate() {
                let context = format!("operation {i} {dtype:?} {weight_dtype:?} {shape:?}");
                for (x, y) in ours(&inputs, rms).unwrap().iter().zip(&mlx(&inputs, rms).unwrap()) {
                    assert_close(x, y, &context);
                }
                // MLX rounds sums over the rows more often than we do: gradients are compared in f32.
                if dtype == Dtype::Float32 && weight_dtype == Dtype::Float32 {
                    for argnums in [&[0][..], &[0, 1, 2, 3], &[2]] {
                        let theirs = gradients(|x| mlx(x, rms), &inputs, argnums);
                        for (x, y) in gradients(|x| ours(x, rms), &inputs, argnums).iter().zip(&theirs) {
                            assert_close(x, y, &format!("{context} {argnums:?}"));
                        }
                    }
                } else {
                    let grads = gradients(|x| ours(x, rms), &inputs, &[0, 1, 2]);
                    let wide: Vec<Array> =
                        inputs.iter().map(|x| x.as_dtype(Dtype::Float32).unwrap()).collect();
                    for (x, y) in grads.iter().zip(&gradients(|x| mlx(x, rms), &wide, &[0, 1, 2])) {
                        let error = difference(&values(x), &values(y));
                        assert!(error < 2.0 * tolerance(Dtype::Bfloat16), "{context}: {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn both_terms_of_a_residual_share_one_gradient() {
    let inputs = [1, 2].map(|seed| draw(&[4, 8], Dtype::Float32, seed));
    let weight = draw(&[8], Dtype::Float32, 3);
    let rms = RmsNormOptions { eps: EPS, offset: 0.0 };
    let f = |x: &[Array]| residual_rms_norm(&x[0], &x[1], &weight, rms).map(|(a, b)| vec![a, b]);
    let grads = gradients(f, &inputs, &[0, 1]);
    assert_eq!(grads[0].as_slice::<f32>(), grads[1].as_slice::<f32>());
}

#[test]
fn misfit_names_both_shapes() {
    let (x, weight) = (draw(&[2, 3], Dtype::Float32, 1), draw(&[4], Dtype::Float32, 2));
    let rms = RmsNormOptions { eps: EPS, offset: 0.0 };
    let message = rms_norm(&x, &weight, rms).unwrap_err().what().to_owned();
    assert!(message.contains("[2, 3]") && message.contains("[4]"), "{message}");
    assert!(residual_rms_norm(&x, &weight, &draw(&[3], Dtype::Float32, 3), rms).is_err());
    assert!(layer_norm(&x, &draw(&[3], Dtype::Float32, 3), &weight, EPS).is_err());
}
