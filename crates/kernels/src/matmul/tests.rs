use mlx_rs::random;

use super::*;
use crate::eval;

const ALL: [Transpose; 4] =
    [Transpose::NONE, Transpose::B, Transpose { a: true, b: false }, Transpose { a: true, b: true }];

fn operands(batch: &[i32], [m, n, k]: [i32; 3], shared_b: bool, t: Transpose, dtype: Dtype) -> [Array; 2] {
    let key = random::key(7).unwrap();
    let (key_a, key_b) = random::split(&key, 2).unwrap();
    let matrix = |lead: &[i32], transposed: bool, rows, cols| {
        let mut shape = lead.to_vec();
        shape.extend(if transposed { [cols, rows] } else { [rows, cols] });
        shape
    };
    let draw = |shape: Vec<i32>, key: &Array| {
        random::normal::<f32>(&shape, None, None, key).unwrap().as_dtype(dtype).unwrap()
    };
    let b_batch = if shared_b { &[] } else { batch };
    [draw(matrix(batch, t.a, m, k), &key_a), draw(matrix(b_batch, t.b, k, n), &key_b)]
}

fn max_abs_difference(x: &Array, y: &Array) -> f32 {
    assert_eq!(x.shape(), y.shape());
    let difference = x.as_dtype(Dtype::Float32).unwrap() - y.as_dtype(Dtype::Float32).unwrap();
    eval([&difference]).unwrap();
    difference.abs().unwrap().max(None).unwrap().item_exact::<f32>()
}

#[test]
fn equals_mlx_in_every_layout_and_dtype() {
    for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
        let tolerance = if dtype == Dtype::Float32 { 1e-4 } else { 0.15 };
        for (batch, shared_b) in [(vec![], true), (vec![3], true), (vec![2, 3], false)] {
            for t in ALL {
                for size in [[1, 1, 1], [5, 7, 3], [33, 65, 17]] {
                    let [a, b] = operands(&batch, size, shared_b, t, dtype);
                    let ours = matmul(&a, &b, t).unwrap();
                    let difference = max_abs_difference(&ours, &reference(&a, &b, t).unwrap());
                    assert!(difference <= tolerance, "{dtype:?} {batch:?} {t:?} {size:?}: {difference}");
                }
            }
        }
    }
}

#[test]
fn gradients_equal_mlx() {
    for (batch, shared_b) in [(vec![], true), (vec![3], true), (vec![2, 3], false)] {
        for t in ALL {
            let inputs = operands(&batch, [5, 7, 3], shared_b, t, Dtype::Float32);
            let weight = matmul(&inputs[0], &inputs[1], t).unwrap().sin().unwrap();
            eval([&weight]).unwrap();
            let gradients = |f: fn(&Array, &Array, Transpose) -> MlxResult<Array>| {
                let weight = weight.clone();
                let loss = move |x: &[Array]| -> MlxResult<Vec<Array>> {
                    Ok(vec![f(&x[0], &x[1], t)?.multiply(&weight)?.sum(None)?])
                };
                let argnums: &[i32] = &[0, 1];
                mlx_rs::transforms::value_and_grad_with_argnums(loss, argnums)(&inputs).unwrap().1
            };
            for (ours, mlx) in gradients(matmul).iter().zip(&gradients(reference)) {
                let difference = max_abs_difference(ours, mlx);
                assert!(difference <= 1e-4, "{batch:?} {t:?}: {difference}");
            }
        }
    }
}

#[test]
fn empty_operands_give_zeros() {
    let a = Array::zeros::<f32>(&[3, 0]).unwrap();
    let b = Array::zeros::<f32>(&[0, 2]).unwrap();
    let c = matmul(&a, &b, Transpose::NONE).unwrap();
    eval([&c]).unwrap();
    assert_eq!(c.as_slice::<f32>(), [0.0; 6]);
}

#[test]
fn misfit_names_both_shapes() {
    let a = Array::zeros::<f32>(&[2, 3]).unwrap();
    let b = Array::zeros::<f32>(&[4, 5]).unwrap();
    let message = matmul(&a, &b, Transpose::NONE).unwrap_err().what().to_owned();
    assert!(message.contains("[2, 3]") && message.contains("[4, 5]"), "{message}");
}
