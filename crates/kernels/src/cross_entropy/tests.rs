use mlx_rs::random;

use super::*;
use crate::eval;
use crate::linear::LowRank;
use crate::quantized::{Format, PackedWeight};
use crate::runtime::operand::{Operand, Slice};

/// `hidden`, `head`, `targets`, `weights`; every third weight is 0.
fn operands(lead: &[i32], vocab: i32, dtype: Dtype) -> [Array; 4] {
    let draw = |shape: &[i32], seed| {
        let key = random::key(seed).unwrap();
        random::normal::<f32>(shape, None, None, &key).unwrap().as_dtype(dtype).unwrap()
    };
    let positions: i32 = lead.iter().product();
    let targets: Vec<i32> = (0..positions).map(|i| (i * 7 + 3) % vocab).collect();
    let weights: Vec<f32> = (0..positions).map(|i| [1.0, 0.5, 0.0][i as usize % 3]).collect();
    let shape = [lead, &[19]].concat();
    [
        draw(&shape, 1),
        draw(&[vocab, 19], 2),
        Array::from_slice(&targets, lead),
        Array::from_slice(&weights, lead),
    ]
}

type Function = fn(&Array, &Layer, &Array, &Array, Options) -> MlxResult<Array>;

fn value_and_gradients(f: Function, operands: &[Array; 4], smoothing: f32) -> Vec<Array> {
    let loss = |trained: &[Array]| -> MlxResult<Vec<Array>> {
        let head = Layer::plain(Weight::Dense(&trained[1]));
        let options = Options { smoothing, gradient: true, ..Options::default() };
        let sums = f(&trained[0], &head, &operands[2], &operands[3], options)?;
        // Rows count differently.
        let places = Array::arange::<_, f32>(1, 1 + sums.size() as i32, None)?.reshape(sums.shape())?;
        Ok(vec![sums.multiply(places.multiply(Array::from_f32(0.25))?)?.sum(None)?, sums])
    };
    let argnums: &[i32] = &[0, 1];
    let (mut values, gradients) =
        mlx_rs::transforms::value_and_grad_with_argnums(loss, argnums)(&operands[..2]).unwrap();
    values.extend(gradients);
    values
}

fn difference(x: &Array, y: &Array) -> f32 {
    assert_eq!((x.shape(), x.dtype()), (y.shape(), y.dtype()));
    let (x, y) = (x.as_dtype(Dtype::Float32).unwrap(), y.as_dtype(Dtype::Float32).unwrap());
    let worst = x.subtract(&y).unwrap().abs().unwrap().max(None).unwrap();
    let size = y.abs().unwrap().max(None).unwrap();
    eval([&worst, &size]).unwrap();
    worst.item_exact::<f32>() / size.item_exact::<f32>().max(1e-6)
}

#[test]
fn loss_and_gradients_equal_mlx() {
    for (dtype, tolerance) in [(Dtype::Float32, 1e-5), (Dtype::Float16, 5e-3), (Dtype::Bfloat16, 3e-2)] {
        // The last vocabulary needs three chunks.
        for (lead, vocab) in [(vec![1], 5), (vec![2, 3], 70), (vec![3, 11], 2100)] {
            for smoothing in [0.0, 0.1] {
                let operands = operands(&lead, vocab, dtype);
                let pairs: [[Function; 2]; 2] =
                    [[cross_entropy, reference], [cross_entropy_rows, reference_rows]];
                for [kernel, composition] in pairs {
                    let ours = value_and_gradients(kernel, &operands, smoothing);
                    let mlx = value_and_gradients(composition, &operands, smoothing);
                    for (i, (ours, mlx)) in ours.iter().zip(&mlx).enumerate() {
                        let difference = difference(ours, mlx);
                        assert!(
                            difference < tolerance,
                            "{dtype:?} {lead:?} {vocab} {smoothing} {i}: {difference}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn chunks_equal_all_logits_at_once() {
    let [hidden, dense, targets, weights] = operands(&[3, 11], 70, Dtype::Float32);
    let draw =
        |shape: &[i32], seed| random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap();
    let (bias, a, b) = (draw(&[70], 5), draw(&[19, 2], 6), draw(&[2, 70], 7));
    let trained = [hidden, dense, bias, a, b];
    for (smoothing, softcap) in [(0.0, None), (0.1, Some(3.0))] {
        let of = |logits: Option<usize>, gradient: bool| {
            let options = Options { smoothing, softcap, gradient };
            let loss = |x: &[Array]| -> MlxResult<Vec<Array>> {
                let low_rank = Some(LowRank { a: &x[3], b: &x[4], scale: 0.5 });
                let head = Layer { weight: Weight::Dense(&x[1]), bias: Some(&x[2]), low_rank };
                let sums = match logits {
                    Some(logits) => chunked::rows(&x[0], &head, &targets, &weights, options, logits)?,
                    None => reference_rows(&x[0], &head, &targets, &weights, options)?,
                };
                Ok(vec![sums.square()?.sum(None)?, sums])
            };
            let argnums: &[i32] = &[0, 1, 2, 3, 4];
            let outputs = mlx_rs::transforms::value_and_grad_with_argnums(loss, argnums)(&trained).unwrap();
            [outputs.0, outputs.1].concat()
        };
        // One position at a time, some, with some left over, and all.
        for (logits, gradient) in [(1, true), (70 * 4, true), (70 * 33, true), (70 * 4, false)] {
            for (i, (ours, all)) in of(Some(logits), gradient).iter().zip(&of(None, true)).enumerate() {
                let difference = difference(ours, all);
                assert!(difference < 1e-5, "{logits} {smoothing} {i}: {difference}");
            }
        }
    }
}

#[test]
fn chunks_under_a_packed_head_reach_the_input() {
    let hidden = random::normal::<f32>(&[9, 64], None, None, &random::key(1).unwrap()).unwrap();
    let table = random::normal::<f32>(&[40, 64], None, None, &random::key(2).unwrap()).unwrap();
    let (codes, scales, biases) = mlx_rs::ops::quantize(&table, 64, 4).unwrap();
    let format = Format::affine(4, 64).unwrap();
    let weight = PackedWeight { codes: &codes, scales: &scales, biases: Some(&biases), format };
    let head = Layer::plain(Weight::Packed(weight));
    let targets = Array::from_slice(&(0..9).map(|i| i * 4).collect::<Vec<i32>>(), &[9]);
    let weights = Array::ones::<f32>(&[9]).unwrap();
    let options = Options { gradient: true, ..Options::default() };
    let of = |logits: usize| {
        let loss = |x: &[Array]| Ok(vec![chunked::rows(&x[0], &head, &targets, &weights, options, logits)?]);
        let argnums: &[i32] = &[0];
        let (values, gradients) =
            mlx_rs::transforms::value_and_grad_with_argnums(loss, argnums)(std::slice::from_ref(&hidden))
                .unwrap();
        [values, gradients].concat()
    };
    for (ours, all) in of(100).iter().zip(&of(1000)) {
        assert!(difference(ours, all) < 1e-5);
    }
}

#[test]
fn equals_the_definition_and_skips_masked_targets() {
    // A head that passes its input on.
    let logits = [[1.0_f32, 2.0, 0.5], [0.0, -1.0, 3.0]];
    let identity = Array::eye::<f32>(3, None, None).unwrap();
    let head = Layer::plain(Weight::Dense(&identity));
    let hidden = Array::from_slice(&logits.concat(), &[1, 2, 3]);
    let targets = Array::from_slice(&[1_i32, 0], &[1, 2]);
    let weights = Array::from_slice(&[1.0_f32, 0.0], &[1, 2]);
    let total: f32 = logits[0].iter().map(|x| x.exp()).sum();
    for f in [cross_entropy, reference] {
        let loss = f(&hidden, &head, &targets, &weights, Options::default()).unwrap();
        eval([&loss]).unwrap();
        assert!((loss.item_exact::<f32>() - (total.ln() - 2.0)).abs() < 1e-6);
    }
}

#[test]
fn huge_logits_stay_finite() {
    let [hidden, head, targets, weights] = operands(&[4], 2100, Dtype::Float32);
    let hidden = hidden.multiply(Array::from_f32(1e4)).unwrap();
    let layer = Layer::plain(Weight::Dense(&head));
    let loss = cross_entropy(&hidden, &layer, &targets, &weights, Options::default()).unwrap();
    eval([&loss]).unwrap();
    assert!(loss.item_exact::<f32>().is_finite());
}

#[test]
fn a_foreign_target_is_refused() {
    let operand = |shape, data| Operand { shape, data };
    let inputs = [
        operand(&[1, 2], Slice::F32(&[1.0, 2.0])),
        operand(&[1], Slice::U32(&[3])),
        operand(&[1], Slice::F32(&[1.0])),
        operand(&[3, 2], Slice::F32(&[0.0; 6])),
    ];
    let weight = Array::zeros::<f32>(&[3, 2]).unwrap();
    let slot = WeightSlot::append(Weight::Dense(&weight), &mut vec![&weight; 3]);
    let panic = std::panic::catch_unwind(|| drop(problem::Problem::new(&inputs, slot, 0.0))).unwrap_err();
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "target 3 of a vocabulary of 3");
}

#[test]
fn misfits_are_named() {
    let [hidden, head, targets, weights] = operands(&[4], 6, Dtype::Float32);
    let layer = Layer::plain(Weight::Dense(&head));
    let narrow = weights.reshape(&[2, 2]).unwrap();
    let error = cross_entropy(&hidden, &layer, &targets, &narrow, Options::default()).unwrap_err();
    assert!(error.what().contains("weights [2, 2] do not fit"), "{}", error.what());
}
