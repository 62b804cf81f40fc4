use half::bf16;
use mlx_rs::Array;

use super::*;
use crate::eval;
use crate::gemm::Rows;
use crate::linear::{Layer, Weight, linears};
use crate::runtime::isa::Isa;
use crate::runtime::operand::Slice;
use crate::testing::{FLOATS, assert_close, difference, draw, gradients, tolerance, values};

mod rows;

fn formats() -> Vec<Format> {
    let affine = [2, 3, 4, 5, 6, 8]
        .into_iter()
        .flat_map(|bits| [32, 64, 128].map(|group_size| Format::affine(bits, group_size).unwrap()));
    affine.chain(floats()).collect()
}

fn floats() -> impl Iterator<Item = Format> {
    Mode::ALL.into_iter().filter_map(Mode::float_format)
}

/// A packed matrix of random bits.
struct Matrix {
    format: Format,
    weight: Array,
    scales: Array,
    biases: Option<Array>,
}

fn random_bits(len: usize, seed: u32) -> Vec<u32> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..len).map(|_| next()).collect()
}

impl Matrix {
    fn draw(format: Format, rows: usize, columns: usize, dtype: Dtype) -> Self {
        let shape = |columns: usize| [rows as i32, columns as i32];
        let words = columns * format.bits() / 32;
        let weight = Array::from_slice(&random_bits(rows * words, 7), &shape(words));
        let groups = columns / format.group_size();
        let numbers = |seed: u64, scale: f32| {
            draw(&shape(groups), Dtype::Float32, seed)
                .multiply(Array::from_f32(scale))
                .and_then(|x| x.as_dtype(dtype))
                .unwrap()
        };
        let range = (1 << format.bits()) as f32;
        let (scales, biases) = match format.mode() {
            Mode::Affine => (numbers(1, 1.0 / range), Some(numbers(2, 1.0))),
            float => {
                // Powers of two from 2⁻⁷ on, from 2⁻¹⁵ on as numbers are up to 480, and 8-bit numbers from ½ on.
                let least = match float {
                    Mode::Mxfp8 => 112,
                    Mode::Nvfp4 => 48,
                    _ => 120,
                };
                let scales = random_bits(rows * groups, 9);
                let scales: Vec<u8> = scales.iter().map(|bits| least + (bits % 8) as u8).collect();
                (Array::from_slice(&scales, &shape(groups)), None)
            }
        };
        eval([&weight, &scales].into_iter().chain(&biases)).unwrap();
        Self { format, weight, scales, biases }
    }

    fn rows(&self) -> QuantizedRows<'_> {
        fn slice(array: &Array) -> Slice<'_> {
            match array.dtype() {
                Dtype::Float32 => Slice::F32(array.as_slice()),
                Dtype::Float16 => Slice::F16(array.as_slice()),
                Dtype::Bfloat16 => Slice::Bf16(array.as_slice()),
                _ => Slice::U8(array.as_slice()),
            }
        }
        let rows = self.weight.dim(0) as usize;
        let weight = Slice::U32(self.weight.as_slice());
        QuantizedRows::new(self.format, rows, weight, slice(&self.scales), self.biases.as_ref().map(slice))
    }

    fn product<'a>(&'a self, y: &'a mut [f32]) -> Product<'a> {
        Product { weights: self.rows(), y }
    }

    fn weight(&self) -> PackedWeight<'_> {
        let Self { format, weight: codes, scales, biases } = self;
        PackedWeight { codes, scales, biases: biases.as_ref(), format: *format }
    }

    /// What MLX takes the weights for, in f32.
    fn dequantized(&self) -> Array {
        let wide = |array: &Array| match array.dtype() {
            Dtype::Uint8 => array.clone(),
            _ => array.as_dtype(Dtype::Float32).unwrap(),
        };
        let (scales, biases) = (wide(&self.scales), self.biases.as_ref().map(wide));
        let weight = PackedWeight { scales: &scales, biases: biases.as_ref(), ..self.weight() };
        let weight = dequantize(weight, Dtype::Float32).unwrap();
        eval([&weight]).unwrap();
        weight
    }

    fn linear(&self, x: &Array, accuracy: Accuracy) -> MlxResult<Array> {
        let layer = Layer { weight: Weight::Packed(self.weight()), bias: None, low_rank: None };
        Ok(accuracy.scope(|| linears(x, &[layer]))?.swap_remove(0))
    }
}

/// `x·weightᵀ` in f64.
fn product(x: &[f64], weight: &[f64], columns: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    x.chunks(columns).flat_map(|x| weight.chunks(columns).map(move |w| dot(x, w))).collect()
}

#[test]
fn unpacked_weights_are_those_of_mlx() {
    for format in formats() {
        for dtype in FLOATS {
            let matrix = Matrix::draw(format, 3, 640, dtype);
            let expected = values(&matrix.dequantized());
            let rows = matrix.rows();
            for isa in Isa::available() {
                for range in [0..640, 0..0, 32..64, 96..608, 5..6, 31..335, 511..640] {
                    let expected: Vec<_> = expected[640 + range.start..640 + range.end].to_vec();
                    // From the second element on, so that nothing is aligned.
                    let mut wide = vec![f32::NAN; range.len() + 1];
                    rows.read(isa, 1, range.clone(), &mut wide[1..]);
                    let wide: Vec<_> = wide[1..].iter().map(|&x| f64::from(x)).collect();
                    assert!(difference(&wide, &expected) < 1e-6, "{format:?} {dtype:?} {isa:?} {range:?}");
                    let mut narrow = vec![bf16::NAN; range.len() + 1];
                    rows.read_bf16(isa, 1, range.clone(), &mut narrow[1..]);
                    let narrow: Vec<_> = narrow[1..].iter().map(|x| x.to_f64()).collect();
                    assert!(difference(&narrow, &expected) < 4e-3, "{format:?} {dtype:?} {isa:?} {range:?}");
                }
            }
        }
    }
}

#[test]
fn every_scale_of_mxfp4_is_exact() {
    let codes = [0x7654_3210_u32, 0xfedc_ba98, 0x0123_4567, 0x89ab_cdef].repeat(255);
    let weight = Array::from_slice(&codes, &[255, 4]);
    let scales = Array::from_slice(&(0..255).collect::<Vec<u8>>(), &[255, 1]);
    let matrix = Matrix { format: Format::MXFP4, weight, scales, biases: None };
    eval([&matrix.weight, &matrix.scales]).unwrap();
    let numbers = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
    for isa in Isa::available() {
        for row in 0..255 {
            let mut wide = [0.0; 32];
            matrix.rows().read(isa, row, 0..32, &mut wide);
            for (code, x) in numbers.iter().zip(wide) {
                let expected = (code * 2.0_f64.powi(row as i32 - 127)) as f32;
                // Minus zero may be zero.
                assert_eq!((x + 0.0).to_bits(), (expected + 0.0).to_bits(), "{isa:?} {row}");
            }
        }
    }
}

/// What MLX quantizes is read bit for bit as MLX reads it, at every magnitude.
#[test]
fn floating_point_formats_are_those_of_mlx_bit_for_bit() {
    for format in floats() {
        let rows: Vec<f32> = (0..40 * 64_i32)
            .map(|i| ((i * 7919 % 1009) as f32 / 504.0 - 1.0) * 2.0_f32.powi(i / 64 - 24))
            .collect();
        let dense = Array::from_slice(&rows, &[40, 64]);
        for dtype in FLOATS {
            let dense = dense.as_dtype(dtype).unwrap();
            let (weight, scales, biases) = quantize(&dense, format).unwrap();
            eval([&weight, &scales]).unwrap();
            let matrix = Matrix { format, weight, scales, biases };
            let expected = matrix.dequantized();
            let ids = Array::arange::<_, i32>(None, 40, None).unwrap();
            let ours = embedding(matrix.weight(), &ids, Dtype::Float32).unwrap();
            eval([&ours]).unwrap();
            for (ours, theirs) in ours.as_slice::<f32>().iter().zip(expected.as_slice::<f32>()) {
                // Minus zero may be zero.
                assert_eq!((ours + 0.0).to_bits(), (theirs + 0.0).to_bits(), "{format:?} {dtype:?}");
            }
        }
    }
}

#[test]
fn few_rows_equal_f64() {
    for format in formats() {
        let shapes = [(1, 7, 640), (1, 1, 128), (3, 5, 384), (8, 33, 256), (7, 3, 128), (2, 300, 896)];
        for ((rows, n, columns), dtype) in
            shapes.into_iter().flat_map(|shape| FLOATS.map(|dtype| (shape, dtype)))
        {
            let matrix = Matrix::draw(format, n, columns, dtype);
            let x = draw(&[rows as i32, columns as i32], Dtype::Float32, 3);
            let expected = product(&values(&x), &values(&matrix.dequantized()), columns);
            // Rounding errors grow with the root of the number of terms.
            let root = (columns as f64).sqrt();
            for isa in Isa::available() {
                for (accuracy, error) in
                    [(Accuracy::F32, 4e-6), (Accuracy::Bf16, 6e-3), (Accuracy::Int8, 3e-2)]
                {
                    let mut y = vec![f32::NAN; rows * n];
                    linear(isa, accuracy, x.as_slice(), &mut [matrix.product(&mut y)]);
                    let y: Vec<_> = y.iter().map(|&y| f64::from(y)).collect();
                    let worst = difference(&y, &expected);
                    assert!(
                        worst < error * root,
                        "{format:?} {dtype:?} {isa:?} {accuracy:?} {rows} {n} {columns}: {worst}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_group_of_32_at_the_end_is_not_lost() {
    for format in formats().into_iter().filter(|format| format.group_size() <= 32) {
        for columns in [32, 96, 160, 224] {
            let matrix = Matrix::draw(format, 2, columns, Dtype::Float32);
            let x = draw(&[1, columns as i32], Dtype::Float32, 3);
            let expected = product(&values(&x), &values(&matrix.dequantized()), columns);
            for isa in Isa::available() {
                for accuracy in [Accuracy::F32, Accuracy::Bf16, Accuracy::Int8] {
                    let mut y = [f32::NAN; 2];
                    linear(isa, accuracy, x.as_slice(), &mut [matrix.product(&mut y)]);
                    let worst = difference(&y.map(f64::from), &expected);
                    assert!(worst < 0.2, "{format:?} {isa:?} {accuracy:?} {columns}: {worst}");
                }
            }
        }
    }
}

#[test]
fn layers_equal_mlx_in_every_dtype() {
    for format in [(4, 64), (3, 128)]
        .map(|(bits, group)| Format::affine(bits, group).unwrap())
        .into_iter()
        .chain(floats())
    {
        for dtype in FLOATS {
            let matrix = Matrix::draw(format, 40, 256, dtype);
            for shape in [vec![256], vec![2, 3, 256], vec![20, 256]] {
                let x =
                    draw(&shape, dtype, 4).multiply(Array::from_f32(0.1)).unwrap().as_dtype(dtype).unwrap();
                let exact = x.as_dtype(Dtype::Float32).unwrap().matmul(matrix.dequantized().t()).unwrap();
                let y = matrix.linear(&x, Accuracy::F32).unwrap();
                assert_close(&y, &exact.as_dtype(dtype).unwrap(), &format!("{format:?} {shape:?}"));
            }
        }
    }
}

#[test]
fn embeddings_are_rows_of_the_table() {
    for format in [(4, 64), (6, 32)]
        .map(|(bits, group)| Format::affine(bits, group).unwrap())
        .into_iter()
        .chain(floats())
    {
        for dtype in FLOATS {
            let matrix = Matrix::draw(format, 9, 128, dtype);
            let ids = Array::from_slice(&[3_i32, 0, 8, 3], &[2, 2]);
            let rows = embedding(matrix.weight(), &ids, dtype).unwrap();
            let expected = matrix.dequantized().take_axis(&ids, 0).unwrap().as_dtype(dtype).unwrap();
            assert_close(&rows, &expected, &format!("{format:?}"));
        }
    }
}

#[test]
fn no_rows_give_no_rows() {
    let matrix = Matrix::draw(Format::affine(4, 64).unwrap(), 40, 256, Dtype::Float32);
    let y = matrix.linear(&Array::zeros::<f32>(&[0, 256]).unwrap(), Accuracy::Int8).unwrap();
    eval([&y]).unwrap();
    assert_eq!(y.shape(), [0, 40]);
}

#[test]
fn less_accuracy_is_still_close_with_many_rows() {
    for format in formats() {
        let matrix = Matrix::draw(format, 70, 384, Dtype::Bfloat16);
        let x = draw(&[37, 384], Dtype::Float32, 4);
        let expected = product(&values(&x), &values(&matrix.dequantized()), 384);
        for isa in Isa::available() {
            for (accuracy, error) in [(Accuracy::F32, 2e-5), (Accuracy::Bf16, 0.2), (Accuracy::Int8, 0.4)] {
                let mut y = vec![f32::NAN; 37 * 70];
                linear(isa, accuracy, x.as_slice(), &mut [matrix.product(&mut y)]);
                let y: Vec<_> = y.iter().map(|&y| f64::from(y)).collect();
                let worst = difference(&y, &expected);
                assert!(worst < error, "{format:?} {isa:?} {accuracy:?}: {worst}");
            }
        }
    }
}

#[test]
fn the_largest_levels_do_not_overflow() {
    let columns = 384;
    for format in formats() {
        let groups = (columns / format.group_size()) as i32;
        let bits = match format.mode() {
            Mode::Affine => u32::MAX,
            // The numbers 448 and 6.
            Mode::Mxfp8 => 0x7e7e_7e7e,
            Mode::Mxfp4 | Mode::Nvfp4 => 0x7777_7777,
        };
        let words = columns * format.bits() / 32;
        let weight = Array::from_slice(&vec![bits; 70 * words], &[70, words as i32]);
        let ones = || Array::ones::<f32>(&[70, groups]).unwrap();
        let (scales, biases) = match format.mode() {
            Mode::Affine => (ones(), Some(ones())),
            _ => (Array::from_slice(&vec![64_u8; 70 * groups as usize], &[70, groups]), None),
        };
        let matrix = Matrix { format, weight, scales, biases };
        eval([&matrix.weight, &matrix.scales].into_iter().chain(&matrix.biases)).unwrap();
        let number = values(&matrix.dequantized())[0];
        for isa in Isa::available() {
            for rows in [1, 2, 37] {
                for x in [1.0_f32, -1.0] {
                    let mut y = vec![f32::NAN; rows * 70];
                    linear(isa, Accuracy::Int8, &vec![x; rows * columns], &mut [matrix.product(&mut y)]);
                    let expected = f64::from(x) * number * columns as f64;
                    let worst = y.iter().map(|&y| (f64::from(y) / expected - 1.0).abs()).fold(0.0, f64::max);
                    assert!(worst < 1e-5, "{format:?} {isa:?} {rows} {x}: {worst}");
                }
            }
        }
    }
}

#[test]
fn the_gradient_of_the_input_equals_mlx() {
    for format in [(4, 64), (5, 32)]
        .map(|(bits, group)| Format::affine(bits, group).unwrap())
        .into_iter()
        .chain(floats())
    {
        let matrix = Matrix::draw(format, 40, 128, Dtype::Float32);
        let x = draw(&[2, 9, 128], Dtype::Float32, 4);
        let ours =
            gradients(|x| Ok(vec![matrix.linear(&x[0], Accuracy::F32)?]), std::slice::from_ref(&x), &[0]);
        let weight = matrix.dequantized();
        let mlx = gradients(|x| Ok(vec![x[0].matmul(weight.t())?]), std::slice::from_ref(&x), &[0]);
        let worst = difference(&values(&ours[0]), &values(&mlx[0]));
        assert!(worst < 10.0 * tolerance(Dtype::Float32), "{format:?}: {worst}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let format = Format::affine(4, 64).unwrap();
    let matrix = Matrix::draw(format, 4, 128, Dtype::Float32);
    let x = draw(&[2, 64], Dtype::Float32, 1);
    let message = matrix.linear(&x, Accuracy::F32).unwrap_err().what().to_owned();
    assert!(message.contains("[2, 64]") && message.contains("128"), "{message}");
    let x = draw(&[2, 128], Dtype::Float32, 1);
    let wrong = Matrix { format: Format::affine(3, 64).unwrap(), ..matrix };
    let message = wrong.linear(&x, Accuracy::F32).unwrap_err().what().to_owned();
    assert!(message.contains("[4, 16]") && message.contains("[4, 2]"), "{message}");
    let missing = Matrix { format, biases: None, ..wrong };
    assert!(missing.linear(&x, Accuracy::F32).unwrap_err().what().contains("biases"));
    assert!(Format::affine(7, 64).is_err() && Format::affine(4, 16).is_err());
}
