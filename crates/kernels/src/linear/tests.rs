use mlx_rs::random;

use super::*;
use crate::eval;

fn draw(shape: &[i32], seed: u64, dtype: Dtype) -> Array {
    random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap().as_dtype(dtype).unwrap()
}

/// `x` and, for each of three layers, its operands: one bare, one with everything, one low-rank only.
fn operands(lead: &[i32], dtype: Dtype) -> Vec<Array> {
    let (inputs, rank) = (37, 5);
    let mut shape = lead.to_vec();
    shape.push(inputs);
    let mut arrays = vec![draw(&shape, 1, dtype), draw(&[9, inputs], 2, dtype)];
    for (outputs, seed) in [(70, 3), (33, 10)] {
        arrays.push(draw(&[outputs, inputs], seed, dtype));
        arrays.push(draw(&[inputs, rank], seed + 1, Dtype::Float32));
        arrays.push(draw(&[rank, outputs], seed + 2, Dtype::Float32));
    }
    arrays.push(draw(&[70], 20, dtype));
    arrays
}

fn layers(arrays: &[Array]) -> [Layer<'_>; 3] {
    let low = |i: usize, scale| Some(LowRank { a: &arrays[i], b: &arrays[i + 1], scale });
    [
        Layer::plain(Weight::Dense(&arrays[1])),
        Layer { weight: Weight::Dense(&arrays[2]), bias: Some(&arrays[8]), low_rank: low(3, 2.0) },
        Layer { weight: Weight::Dense(&arrays[5]), bias: None, low_rank: low(6, 0.5) },
    ]
}

/// Largest difference as a share of the largest magnitude.
fn difference(x: &Array, y: &Array) -> f32 {
    assert_eq!((x.shape(), x.dtype()), (y.shape(), y.dtype()));
    let (x, y) = (x.as_dtype(Dtype::Float32).unwrap(), y.as_dtype(Dtype::Float32).unwrap());
    let worst = x.subtract(&y).unwrap().abs().unwrap().max(None).unwrap();
    let size = y.abs().unwrap().max(None).unwrap();
    eval([&worst, &size]).unwrap();
    worst.item_exact::<f32>() / size.item_exact::<f32>().max(1e-6)
}

fn tolerance(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float32 => 1e-5,
        Dtype::Float16 => 4e-3,
        _ => 2e-2,
    }
}

const DTYPES: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

#[test]
fn outputs_equal_mlx() {
    for dtype in DTYPES {
        for lead in [vec![], vec![1], vec![2, 3], vec![4, 40]] {
            let arrays = operands(&lead, dtype);
            let ours = linears(&arrays[0], &layers(&arrays)).unwrap();
            let mlx = reference(&arrays[0], &layers(&arrays)).unwrap();
            for (i, (ours, mlx)) in ours.iter().zip(&mlx).enumerate() {
                let difference = difference(ours, mlx);
                assert!(difference < tolerance(dtype), "{dtype:?} {lead:?} layer {i}: {difference}");
            }
        }
    }
}

type Function = fn(&Array, &[Layer]) -> MlxResult<Vec<Array>>;

/// Gradients of a weighted sum of the outputs with respect to every operand.
fn gradients(f: Function, arrays: &[Array]) -> Vec<Array> {
    let loss = |arrays: &[Array]| -> MlxResult<Vec<Array>> {
        let mut total = Array::from_f32(0.0);
        for (i, y) in f(&arrays[0], &layers(arrays))?.iter().enumerate() {
            let weights = draw(y.shape(), 30 + i as u64, Dtype::Bfloat16).as_dtype(y.dtype())?;
            total = total.add(y.multiply(weights)?.as_dtype(Dtype::Float32)?.sum(None)?)?;
        }
        Ok(vec![total])
    };
    let argnums: Vec<i32> = (0..arrays.len() as i32).collect();
    mlx_rs::transforms::value_and_grad_with_argnums(loss, argnums.as_slice())(arrays).unwrap().1
}

#[test]
fn gradients_equal_mlx() {
    for dtype in DTYPES {
        for lead in [vec![1], vec![2, 3], vec![2, 40]] {
            let arrays = operands(&lead, dtype);
            let mlx = gradients(reference, &arrays);
            for (i, (ours, mlx)) in gradients(linears, &arrays).iter().zip(&mlx).enumerate() {
                let difference = difference(ours, mlx);
                assert!(difference < tolerance(dtype), "{dtype:?} {lead:?} input {i}: {difference}");
            }
        }
    }
}

#[test]
fn no_rows_give_empty_outputs() {
    let arrays = operands(&[2, 0], Dtype::Float32);
    let outputs = linears(&arrays[0], &layers(&arrays)).unwrap();
    eval(&outputs).unwrap();
    assert_eq!(outputs[1].shape(), [2, 0, 70]);
}

#[test]
fn misfits_are_named() {
    let arrays = operands(&[2], Dtype::Float32);
    let [bare, full, _] = layers(&arrays);
    let message = |layer: Layer| linears(&arrays[0], &[layer]).unwrap_err().what().to_owned();
    assert!(
        message(Layer { weight: Weight::Dense(&arrays[3]), ..bare })
            .contains("input of shape [2, 37] does not fit a layer [37, 5]")
    );
    assert!(message(Layer { bias: Some(&arrays[1]), ..bare }).contains("bias of shape [9, 37]"));
    let low_rank = full.low_rank.map(|low| LowRank { b: &arrays[7], ..low });
    assert!(message(Layer { low_rank, ..full }).contains("B of shape [5, 33] does not fit a layer [70, 37]"));
}
