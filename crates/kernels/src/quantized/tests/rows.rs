//! What is computed together is what each part gives alone.

use super::*;

/// Who is computed with others gets what it gets alone, bit for bit.
#[test]
fn few_rows_are_as_each_alone() {
    for format in formats() {
        for columns in [128, 256, 640, 896, 1408] {
            let matrix = Matrix::draw(format, 21, columns, Dtype::Bfloat16);
            let x = draw(&[8, columns as i32], Dtype::Float32, 3);
            let x = x.as_slice::<f32>();
            for isa in Isa::available() {
                for accuracy in [Accuracy::F32, Accuracy::Bf16, Accuracy::Int8] {
                    let mut alone = vec![f32::NAN; 8 * 21];
                    for (x, y) in x.chunks_exact(columns).zip(alone.chunks_exact_mut(21)) {
                        linear(isa, accuracy, x, &mut [matrix.product(y)]);
                    }
                    for rows in 2..=8 {
                        let mut y = vec![f32::NAN; rows * 21];
                        linear(isa, accuracy, &x[..rows * columns], &mut [matrix.product(&mut y)]);
                        assert_eq!(y, alone[..rows * 21], "{format:?} {isa:?} {accuracy:?} {rows} {columns}");
                    }
                }
            }
        }
    }
}

/// Some share a format, some do not.
#[test]
fn several_at_once_are_as_one_by_one() {
    let formats = [(4, 64), (4, 64), (8, 64), (4, 64), (4, 32), (4, 32)];
    let of = |((bits, group), n)| Matrix::draw(Format::affine(bits, group).unwrap(), n, 256, Dtype::Bfloat16);
    let matrices: Vec<_> = formats.into_iter().zip([40, 300, 17, 1, 5, 70]).map(of).collect();
    let x = draw(&[37, 256], Dtype::Float32, 3);
    for rows in [0, 1, 3, 8, 37] {
        let x = &x.as_slice::<f32>()[..rows * 256];
        let room = || matrices.iter().map(|matrix| vec![f32::NAN; rows * matrix.rows().rows]);
        for isa in Isa::available() {
            for accuracy in [Accuracy::F32, Accuracy::Bf16, Accuracy::Int8] {
                let (mut together, mut alone) = (room().collect::<Vec<_>>(), room().collect::<Vec<_>>());
                let mut products: Vec<_> =
                    matrices.iter().zip(&mut together).map(|(matrix, y)| matrix.product(y)).collect();
                linear(isa, accuracy, x, &mut products);
                for (matrix, y) in matrices.iter().zip(&mut alone) {
                    linear(isa, accuracy, x, &mut [matrix.product(y)]);
                }
                assert!(alone.iter().flatten().all(|y| y.is_finite()), "{isa:?} {accuracy:?} {rows}");
                assert_eq!(together, alone, "{isa:?} {accuracy:?} {rows}");
            }
        }
    }
}
