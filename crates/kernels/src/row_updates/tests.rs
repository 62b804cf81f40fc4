use mlx_rs::Dtype;

use super::*;
use crate::eval;
use crate::runtime::isa::Isa;
use crate::testing::{FLOATS, difference, draw, tolerance, values};

/// `x`, outputs of two layers, `A` and `B` of both for two adapters, and a magnitude with bias.
fn operands(rows: i32, rank: i32, dtype: Dtype) -> Vec<Array> {
    let shapes: [&[i32]; 13] = [
        &[1, rows, 37],
        &[1, rows, 70],
        &[1, rows, 9],
        &[37, rank],
        &[rank, 70],
        &[37, rank],
        &[rank, 9],
        &[37, 2 * rank],
        &[2 * rank, 70],
        &[37, 1],
        &[1, 9],
        &[70],
        &[70],
    ];
    shapes.iter().zip(1..).map(|(shape, seed)| draw(shape, dtype, seed)).collect()
}

fn updates(arrays: &[Array], first: Range<usize>, second: Range<usize>) -> Vec<RowUpdate<'_>> {
    let update = |layer, rows: &Range<usize>, at: usize, scale| RowUpdate {
        layer,
        rows: rows.clone(),
        low_rank: LowRank { a: &arrays[at], b: &arrays[at + 1], scale },
        magnitude: None,
    };
    let magnitude = Some(Magnitude { factor: &arrays[11], bias: Some(&arrays[12]) });
    vec![
        update(0, &first, 3, 2.0),
        update(1, &first, 5, 0.5),
        RowUpdate { magnitude, ..update(0, &second, 7, -1.0) },
        update(1, &second, 9, 0.25),
    ]
}

#[test]
fn rows_get_what_mlx_computes_for_each_alone() {
    for dtype in FLOATS {
        for (rows, rank) in [(2, 1), (9, 8), (30, 5), (150, 16)] {
            let arrays = operands(rows, rank, dtype);
            let wide: Vec<Array> = arrays.iter().map(|x| x.as_dtype(Dtype::Float32).unwrap()).collect();
            let (middle, rows) = (rows as usize / 2, rows as usize);
            // All rows, the first and the last ones left out, and none.
            for (first, second) in [(0..middle, middle..rows), (1..middle, middle..rows - 1), (0..0, 1..1)] {
                let found =
                    update_rows(&arrays[0], &arrays[1..3], &updates(&arrays, first.clone(), second.clone()))
                        .unwrap();
                let expected = reference(&wide[0], &wide[1..3], &updates(&wide, first, second)).unwrap();
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!((found.shape(), found.dtype()), (expected.shape(), dtype));
                    let error = difference(&values(found), &values(expected));
                    assert!(error < 8.0 * tolerance(dtype), "{dtype:?} {rows} {rank}: {error}");
                }
            }
        }
    }
}

#[test]
fn other_rows_are_copied_exactly() {
    let arrays = operands(12, 4, Dtype::Float32);
    let found = update_rows(&arrays[0], &arrays[1..3], &updates(&arrays, 2..3, 5..7)).unwrap();
    let (found, before) = (values(&found[1]), values(&arrays[2]));
    for (row, (found, before)) in found.chunks(9).zip(before.chunks(9)).enumerate() {
        assert_eq!(found == before, ![2, 5, 6].contains(&row), "{row}");
    }
}

#[test]
fn every_instruction_set_computes_the_products() {
    let numbers = |len: usize, step: usize| -> Vec<f32> {
        (0..len).map(|i| ((i * step) % 17) as f32 / 8.0 - 1.0).collect()
    };
    // Ranks on both sides of the lanes of a sum, and widths that are no multiple of four.
    for (width, rank, outputs) in [(1, 1, 1), (37, 3, 70), (64, 8, 33), (129, 20, 5), (7, 16, 256)] {
        let (x, a, b) = (numbers(width, 5), numbers(width * rank, 7), numbers(rank * outputs, 11));
        let dot = |i: usize| (0..width).map(|k| f64::from(x[k]) * f64::from(a[k * rank + i])).sum::<f64>();
        let wide: Vec<f64> = (0..rank).map(dot).collect();
        for isa in Isa::available() {
            let (mut u, mut low) = (vec![f32::NAN; rank], vec![f32::NAN; outputs]);
            cpu::project(isa, &x, &a, &mut u);
            cpu::expand(isa, &u, 0.5, &b, &mut low);
            for (j, low) in low.iter().enumerate() {
                let exact: f64 = (0..rank).map(|i| 0.5 * wide[i] * f64::from(b[i * outputs + j])).sum();
                assert!((f64::from(*low) - exact).abs() < 1e-4, "{isa:?} {width} {rank}: {low} {exact}");
            }
        }
    }
}

#[test]
fn misfits_are_named() {
    let arrays = operands(6, 2, Dtype::Float32);
    let refused = |index: usize, update: RowUpdate, message: &str| {
        let mut updates = updates(&arrays, 0..2, 2..6);
        updates[index] = update;
        let error = update_rows(&arrays[0], &arrays[1..3], &updates).unwrap_err();
        assert!(error.what().contains(message), "{}", error.what());
    };
    let valid = updates(&arrays, 0..2, 2..6);
    refused(2, RowUpdate { rows: 1..3, ..valid[2].clone() }, "rows 1..3 after 2, of 6");
    refused(3, RowUpdate { rows: 2..7, ..valid[3].clone() }, "rows 2..7 after 2, of 6");
    refused(0, RowUpdate { layer: 2, ..valid[0].clone() }, "there is no layer 2");
    refused(0, RowUpdate { layer: 1, ..valid[0].clone() }, "do not fit a layer [9, 37]");
    let magnitude = Some(Magnitude { factor: &arrays[11], bias: None });
    refused(1, RowUpdate { magnitude, ..valid[1].clone() }, "a magnitude [70] of 9 outputs");
    let short = arrays[2].reshape(&[2, 3, 9]).unwrap();
    let outputs = [arrays[1].clone(), short];
    assert!(update_rows(&arrays[0], &outputs, &[]).unwrap_err().what().contains("have other rows"));
    eval(&arrays).unwrap();
}
