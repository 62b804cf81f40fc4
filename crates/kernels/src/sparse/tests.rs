use mlx_rs::ops::indexing::TryIndexOp as _;

use super::*;
use crate::bitmask::SparseCodes;
use crate::eval;
use crate::gemm::{Rows as _, gemv};
use crate::linear::{self, Layer, Weight, linears};
use crate::quantized::{self, Accuracy, quantize};
use crate::runtime::element::Element;
use crate::runtime::isa::Isa;
use crate::testing::{FLOATS, assert_close, draw, gradients};

/// Rows and columns: one number, no rows, no columns, whole words, rest of a word, of a half of it, and longer rows.
const SHAPES: [(i32, i32); 9] =
    [(1, 1), (0, 5), (3, 0), (2, 32), (7, 33), (5, 47), (3, 129), (40, 96), (2, 1500)];

/// Fractions of zeros.
const SPARSITIES: [f32; 5] = [0.0, 0.3, 0.5, 0.9, 1.0];

/// A matrix with about this fraction of zeros, of which the second row is empty.
fn masked(shape: (i32, i32), dtype: Dtype, sparsity: f32) -> Array {
    let shape = [shape.0, shape.1];
    let weight = draw(&shape, dtype, 2);
    let numbers = mlx_rs::random::uniform::<_, f32>(0.0, 1.0, &shape, &mlx_rs::random::key(3).unwrap());
    let mask = numbers.unwrap().ge(Array::from_f32(sparsity)).unwrap().as_dtype(dtype).unwrap();
    let rows = Array::arange::<_, i32>(None, shape[0], None).unwrap().reshape(&[shape[0], 1]).unwrap();
    let mask = mask.multiply(rows.ne(Array::from_int(1)).unwrap().as_dtype(dtype).unwrap()).unwrap();
    let weight = weight.multiply(mask).unwrap();
    eval([&weight]).unwrap();
    weight
}

fn bits_of(array: &Array) -> Vec<f32> {
    let wide = array.as_dtype(Dtype::Float32).unwrap();
    eval([&wide]).unwrap();
    pack::slice::<f32>(&wide).to_vec()
}

#[test]
fn what_is_packed_comes_back() {
    for dtype in FLOATS {
        for shape in SHAPES {
            for fraction in SPARSITIES {
                let weight = masked(shape, dtype, fraction);
                let matrix = SparseMatrix::from_dense(&weight).unwrap();
                let zeros = bits_of(&weight).iter().filter(|&&x| x == 0.0).count();
                assert_eq!(matrix.nonzeros(), weight.size() - zeros);
                let Unpacked::Dense(back) = matrix.unpack() else { panic!("codes") };
                assert_eq!((back.shape(), back.dtype()), (weight.shape(), dtype));
                assert_eq!(bits_of(&back), bits_of(&weight), "{dtype:?} {shape:?} {fraction}");
            }
        }
    }
}

#[test]
fn it_is_as_small_as_the_formula_says() {
    let weight = masked((256, 1024), Dtype::Bfloat16, 0.5);
    let matrix = SparseMatrix::from_dense(&weight).unwrap();
    let expected = matrix.nonzeros() * 2 + 256 * 1024 / 8 + 257 * 4;
    assert_eq!(matrix.dense_nbytes(), weight.nbytes());
    // The sections begin with a cache line, and there is room behind the last one.
    assert!((expected..expected + 4 * 64).contains(&matrix.nbytes()), "{} {expected}", matrix.nbytes());
    let measured = Weight::Dense(&weight).sparsity().unwrap().unwrap();
    assert!((measured - 0.5).abs() < 0.02, "{measured}");
}

fn multiplied<T: Element + gemv::Weight + mlx_rs::ArrayElement>(dtype: Dtype) {
    for shape in SHAPES {
        for fraction in SPARSITIES {
            let weight = masked(shape, dtype, fraction);
            let matrix = SparseMatrix::from_dense(&weight).unwrap();
            let view = matrix.layout().view(matrix.data().as_slice::<u32>());
            let (n, columns) = (shape.0 as usize, shape.1 as usize);
            for rows in [0, 1, 2, 5, 8, 11] {
                let x = draw(&[rows, shape.1], Dtype::Float32, 4);
                let x = pack::slice::<f32>(&x);
                for isa in Isa::available() {
                    let (mut ours, mut dense) =
                        (vec![f32::NAN; rows as usize * n], vec![f32::NAN; rows as usize * n]);
                    multiply(isa, x, view, &mut ours);
                    gemv::dense(isa, x, pack::slice::<T>(&weight), columns, &mut dense);
                    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * (1.0 + columns as f32).sqrt();
                    let all = ours.iter().zip(&dense).all(close);
                    assert!(all, "{isa:?} {dtype:?} {shape:?} {fraction} {rows} rows: {ours:?} {dense:?}");
                }
            }
        }
    }
}

#[test]
fn products_of_few_rows_equal_those_of_the_dense_matrix_on_every_instruction_set() {
    multiplied::<f32>(Dtype::Float32);
    multiplied::<f16>(Dtype::Float16);
    multiplied::<bf16>(Dtype::Bfloat16);
}

#[test]
fn any_part_of_a_row_can_be_read() {
    let weight = masked((4, 150), Dtype::Bfloat16, 0.5);
    let numbers = weight.as_slice::<bf16>();
    let matrix = SparseMatrix::from_dense(&weight).unwrap();
    let rows = SparseRows::<bf16>::new(matrix.layout().view(matrix.data().as_slice::<u32>()));
    for isa in Isa::available() {
        for columns in [0..0, 0..150, 31..33, 32..96, 5..149, 149..150, 150..150] {
            for row in 0..4 {
                let mut narrow = vec![bf16::NAN; columns.len()];
                rows.read_bf16(isa, row, columns.clone(), &mut narrow);
                assert_eq!(narrow, numbers[row * 150..][columns.clone()], "{isa:?} {columns:?}");
            }
        }
    }
}

#[test]
fn layers_equal_dense_ones_for_any_number_of_rows_and_pass_gradients_on() {
    for dtype in FLOATS {
        for rows in [1, 3, 40] {
            let weight = masked((70, 47), dtype, 0.5);
            let matrix = SparseMatrix::from_dense(&weight).unwrap();
            let bias = draw(&[70], dtype, 7);
            let layer = |weight| Layer { weight, bias: Some(&bias), low_rank: None };
            let (ours, dense) = (layer(Weight::Sparse(&matrix)), layer(Weight::Dense(&weight)));
            let x = draw(&[rows, 47], dtype, 5);
            let run = |layer: Layer| linears(&x, &[layer]).unwrap().remove(0);
            assert_close(&run(ours), &run(dense), "sparse");
            let reference = linear::reference(&x, &[ours]).unwrap().remove(0);
            assert_close(&run(ours), &reference, "reference");
            let gradient = |layer: Layer| {
                gradients(|x| linears(&x[0], &[layer]), std::slice::from_ref(&x), &[0]).remove(0)
            };
            assert_close(&gradient(ours), &gradient(dense), "gradient");
        }
    }
}

/// Codes of a matrix with zeros, in `format`.
fn quantized_matrix(shape: (i32, i32), format: Format, fraction: f32, dtype: Dtype) -> [Array; 3] {
    let (codes, scales, biases) = quantize(&masked(shape, dtype, fraction), format).unwrap();
    let arrays = [codes, scales, biases.unwrap()];
    eval(&arrays).unwrap();
    arrays
}

#[test]
fn quantized_layers_are_exactly_those_that_are_not_sparse() {
    for (bits, group) in [(8, 32), (8, 64), (4, 64), (4, 128), (4, 32)] {
        let format = Format::affine(bits, group).unwrap();
        for (fraction, columns) in [(0.5, 384), (0.0, 128), (0.9, 640), (1.0, 128)] {
            for dtype in [Dtype::Float32, Dtype::Bfloat16] {
                let [codes, scales, biases] = quantized_matrix((37, columns), format, fraction, dtype);
                let packed = PackedWeight { codes: &codes, scales: &scales, biases: Some(&biases), format };
                let matrix = SparseMatrix::from_quantized(packed).unwrap();
                let Unpacked::Quantized(back, ..) = matrix.unpack() else { panic!("dense") };
                assert_eq!(back.as_slice::<u32>(), codes.as_slice::<u32>(), "{format:?} {fraction}");
                let share = Weight::Packed(packed).sparsity().unwrap().unwrap();
                assert!(share >= f64::from(fraction) - 0.05, "{share} of {fraction}");
                for rows in [1, 3, 40] {
                    let x = draw(&[rows, columns], dtype, 5);
                    for accuracy in Accuracy::ALL {
                        let run = |weight| {
                            let y =
                                accuracy.scope(|| linears(&x, &[Layer::plain(weight)])).unwrap().remove(0);
                            bits_of(&y)
                        };
                        let context = format!("{format:?} {fraction} {dtype:?} {accuracy:?} {rows}");
                        let (ours, dense) = (run(Weight::Sparse(&matrix)), run(Weight::Packed(packed)));
                        if bits == 8 {
                            assert_eq!(ours, dense, "{context}");
                        } else {
                            // Codes in halves of bytes are added in another order.
                            let largest = dense.iter().fold(1.0_f32, |most, y| most.max(y.abs()));
                            let limit = if dtype == Dtype::Float32 && accuracy != Accuracy::Bf16 {
                                1e-5
                            } else {
                                2e-2
                            };
                            let all = ours.iter().zip(&dense).all(|(a, b)| (a - b).abs() <= limit * largest);
                            assert!(all, "{context}: {ours:?} {dense:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn codes_are_read_on_every_instruction_set() {
    for (bits, group) in [(8, 32), (4, 128)] {
        let format = Format::affine(bits, group).unwrap();
        let [codes, scales, biases] = quantized_matrix((5, 384), format, 0.6, Dtype::Float32);
        let packed = PackedWeight { codes: &codes, scales: &scales, biases: Some(&biases), format };
        let matrix = SparseMatrix::from_quantized(packed).unwrap();
        let view = SparseCodes::new(matrix.layout().view(matrix.data().as_slice::<u32>()));
        let mut whole = vec![0; 384];
        for isa in Isa::available() {
            for row in 0..5 {
                view.read(Isa::Portable, row, 0..384, &mut whole);
                let own = codes.try_index(row as i32).unwrap();
                let words = quantized::pack(&whole, bits);
                assert_eq!(words, own.as_slice::<u32>());
                for columns in [0..0, 0..384, 32..64, 96..384, 352..384] {
                    let mut part = vec![0xff; columns.len()];
                    view.read(isa, row, columns.clone(), &mut part);
                    assert_eq!(part, whole[columns.clone()], "{isa:?} {columns:?}");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_packed_is_named() {
    let message = |weight: Weight| weight.to_sparse().unwrap_err().what().to_owned();
    let whole = Array::from_slice(&[1_i32, 2], &[1, 2]);
    assert!(message(Weight::Dense(&whole)).contains("Int32"));
    let cube = draw(&[2, 2, 2], Dtype::Float32, 1);
    assert!(message(Weight::Dense(&cube)).contains("[2, 2, 2]"));
    let format = Format::affine(3, 64).unwrap();
    let [codes, scales, biases] = quantized_matrix((2, 64), format, 0.5, Dtype::Float32);
    let weight =
        Weight::Packed(PackedWeight { codes: &codes, scales: &scales, biases: Some(&biases), format });
    assert!(message(weight).contains("bits: 3"));
    assert_eq!(weight.sparsity().unwrap(), None);
}
