use half::{bf16, f16};

use super::*;
use crate::runtime::element::Element;
use crate::runtime::operand::Slice;
use crate::testing::{FLOATS, assert_close, difference, draw, tolerance, unaligned, values};

const HYPERPARAMETERS: Hyperparameters =
    Hyperparameters { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
const LR: f64 = 0.1;
const UPDATE: u64 = 3;
const GRAD_SCALE: f32 = 0.5;

fn factors() -> [f32; 3] {
    HYPERPARAMETERS.factors(LR, UPDATE).map(|factor| factor as f32)
}

fn updated(
    of: fn(&Hyperparameters, Scalars, &[Tensor]) -> MlxResult<Vec<Updated>>,
    tensors: &[Tensor],
) -> MlxResult<Vec<Updated>> {
    let (grad_scale, factors) = (Array::from_f32(GRAD_SCALE), factors().map(Array::from_f32));
    of(&HYPERPARAMETERS, Scalars { grad_scale: &grad_scale, factors: factors.each_ref() }, tensors)
}

/// `(p, m, v)` after one update, in f64.
fn exact([p, g, m, v]: [f64; 4]) -> [f64; 3] {
    let Hyperparameters { beta1, beta2, eps, weight_decay } = HYPERPARAMETERS;
    let g = g * f64::from(GRAD_SCALE);
    let m = beta1 * m + (1.0 - beta1) * g;
    let v = beta2 * v + (1.0 - beta2) * g * g;
    let correction = |beta: f64| 1.0 - beta.powi(UPDATE as i32);
    let root = (v / correction(beta2)).sqrt() + eps;
    [p * (1.0 - LR * weight_decay) - LR * m / correction(beta1) / root, m, v]
}

fn slice_of<T: Element>(row: &[T], dtype: Dtype) -> Slice<'_> {
    match dtype {
        Dtype::Float32 => Slice::F32(bytemuck::cast_slice(row)),
        Dtype::Float16 => Slice::F16(bytemuck::cast_slice(row)),
        _ => Slice::Bf16(bytemuck::cast_slice(row)),
    }
}

fn slice_of_mut<T: Element>(row: &mut [T], dtype: Dtype) -> SliceMut<'_> {
    match dtype {
        Dtype::Float32 => SliceMut::F32(bytemuck::cast_slice_mut(row)),
        Dtype::Float16 => SliceMut::F16(bytemuck::cast_slice_mut(row)),
        _ => SliceMut::Bf16(bytemuck::cast_slice_mut(row)),
    }
}

fn kernels_equal_f64<P: Element>(dtype: Dtype) {
    for (isa, (len, fresh)) in Isa::available()
        .flat_map(|isa| [(0, false), (1, true), (1025, false), (70_001, true)].map(|x| (isa, x)))
    {
        let context = format!("{isa:?} {dtype:?} {len}");
        let (p, g) = (unaligned::<P>(len, 1), unaligned::<bf16>(len, 2));
        let [m, mut v] = [3, 4].map(|seed| unaligned::<f32>(len, seed));
        for v in &mut v {
            *v = v.abs();
        }
        let mut updated = vec![P::from_f32(f32::NAN); len + 1];
        let mut moments = [1, 2].map(|_| vec![f32::NAN; len + 1]);
        let [first, second] = &mut moments;
        let mut chunks = Vec::new();
        let mut outputs = (
            slice_of_mut(&mut updated[1..], dtype),
            SliceMut::F32(&mut first[1..]),
            SliceMut::F32(&mut second[1..]),
        );
        let old = (!fresh).then_some((Slice::F32(&m[1..]), Slice::F32(&v[1..])));
        let new = [&mut outputs.0, &mut outputs.1, &mut outputs.2];
        cpu::push_chunks(&mut chunks, slice_of(&p[1..], dtype), Slice::Bf16(&g[1..]), old, new);
        let [root_scale, step_size, decay_factor] = factors();
        let coefficients = cpu::MomentCoefficients::of(&HYPERPARAMETERS);
        let factors =
            cpu::Factors { coefficients, grad_scale: GRAD_SCALE, root_scale, step_size, decay_factor };
        cpu::update(isa, &factors, chunks);

        let expected: Vec<[f64; 3]> = (1..=len)
            .map(|i| {
                let (m, v) = if fresh { (0.0, 0.0) } else { (f64::from(m[i]), f64::from(v[i])) };
                exact([f64::from(Element::to_f32(p[i])), f64::from(Element::to_f32(g[i])), m, v])
            })
            .collect();
        let column = |i: usize| -> Vec<f64> { expected.iter().map(|row| row[i]).collect() };
        let wide: Vec<f64> = updated[1..].iter().map(|&x| f64::from(Element::to_f32(x))).collect();
        assert!(difference(&wide, &column(0)) <= tolerance(dtype), "{context}");
        for (i, moment) in moments.iter().enumerate() {
            let moment: Vec<f64> = moment[1..].iter().map(|&x| f64::from(x)).collect();
            assert!(difference(&moment, &column(i + 1)) <= 1e-6, "{context} moment {i}");
        }

        let norm = cpu::squared_norm(isa, &[slice_of(&p[1..], dtype), Slice::Bf16(&g[1..])]);
        let square = |x: f32| f64::from(x).powi(2);
        let squares = p[1..].iter().map(|&x| square(Element::to_f32(x)));
        let exact: f64 = squares.chain(g[1..].iter().map(|&x| square(Element::to_f32(x)))).sum();
        assert!((norm - exact).abs() <= 1e-6 * exact, "{context}: {norm} {exact}");
    }
}

#[test]
fn kernels_equal_f64_on_every_instruction_set() {
    kernels_equal_f64::<f32>(Dtype::Float32);
    kernels_equal_f64::<f16>(Dtype::Float16);
    kernels_equal_f64::<bf16>(Dtype::Bfloat16);
}

#[test]
fn many_tensors_equal_mlx() {
    let arrays: Vec<[Array; 4]> = FLOATS
        .into_iter()
        .zip([&[7, 300][..], &[], &[40_000]])
        .map(|(dtype, shape)| {
            let second = draw(shape, Dtype::Float32, 4).square().unwrap();
            [draw(shape, dtype, 1), draw(shape, dtype, 2), draw(shape, Dtype::Float32, 3), second]
        })
        .collect();
    for fresh in [false, true] {
        let tensors: Vec<Tensor> = arrays
            .iter()
            .map(|[parameter, grad, first, second]| Tensor {
                parameter,
                grad,
                moments: (!fresh).then_some([first, second]),
            })
            .collect();
        let (ours, mlx) = (updated(adamw, &tensors).unwrap(), updated(reference, &tensors).unwrap());
        assert_eq!(ours.len(), arrays.len());
        for (x, y) in ours.iter().zip(&mlx) {
            assert_close(&x.parameter, &y.parameter, "parameter");
            assert_close(&x.first, &y.first, "first");
            assert_close(&x.second, &y.second, "second");
        }
    }
    let grads: Vec<&Array> = arrays.iter().map(|[_, grad, ..]| grad).collect();
    let (ours, mlx) = (squared_norm(&grads).unwrap(), squared_norm_reference(&grads).unwrap());
    // MLX adds up one after the other in f32.
    assert!(difference(&values(&ours), &values(&mlx)) < 1e-4);
    assert_eq!(values(&squared_norm(&[]).unwrap()), [0.0]);
}

#[test]
fn a_column_of_a_matrix_is_no_row_of_it() {
    let matrix = Array::from_slice(&[3.0_f32, 1.0, 4.0, 1.0], &[2, 2]);
    let column = matrix.take_axis(Array::from_int(0), 1).unwrap();
    assert_eq!(values(&squared_norm(&[&column, &matrix.transpose().unwrap()]).unwrap()), [52.0]);
}

#[test]
fn misfit_names_both_shapes() {
    let (parameter, grad) = (draw(&[2, 3], Dtype::Float32, 1), draw(&[3], Dtype::Float32, 2));
    let tensor = Tensor { parameter: &parameter, grad: &grad, moments: None };
    let message = updated(adamw, &[tensor]).unwrap_err().what().to_owned();
    assert!(message.contains("[2, 3]") && message.contains("[3]"), "{message}");
    let [row, one] = [&[1.0_f32, 1.0][..], &[1.0]].map(|x| Array::from_slice(x, &[x.len() as i32]));
    let scalars = Scalars { grad_scale: &row, factors: [&one; 3] };
    let message = adamw(&HYPERPARAMETERS, scalars, &[]).unwrap_err().what().to_owned();
    assert!(message.contains("[2]"), "{message}");
}
