use half::{bf16, f16};

use super::*;
use crate::runtime::element::Element;

/// Numbers that are small multiples of 1/8, exact in every format, so that sums are exact too.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f32::from((state >> 24) as u8) - 128.0) / 8.0
        })
        .collect()
}

fn cast<T: Element>(numbers: &[f32]) -> Vec<T> {
    // One more in front: the matrix that follows is not aligned to anything but its elements.
    std::iter::once(0.0).chain(numbers.iter().copied()).map(T::from_f32).collect()
}

/// `Σ left·rightᵀ` in f64; `left`: `[m, k]`, `right`: `[n, k]`.
fn reference(terms: &[(Vec<f32>, Vec<f32>, usize)], m: usize, n: usize) -> Vec<f32> {
    let mut c = vec![0.0_f64; m * n];
    for (left, right, k) in terms {
        for i in 0..m {
            for j in 0..n {
                let dot: f64 =
                    (0..*k).map(|s| f64::from(left[i * k + s]) * f64::from(right[j * k + s])).sum();
                c[i * n + j] += dot;
            }
        }
    }
    c.into_iter().map(|c| c as f32).collect()
}

fn transposed(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| matrix[i % rows * columns + i / rows]).collect()
}

fn operand<R: Rows>(matrix: &R, turn: bool) -> Lanes<'_> {
    if turn { Lanes::columns(matrix) } else { Lanes::rows(matrix) }
}

fn check<T: Element>(isa: Isa, precision: Precision, m: usize, n: usize, depths: &[usize], turn: [bool; 2]) {
    let terms: Vec<_> = depths
        .iter()
        .enumerate()
        .map(|(i, &k)| (numbers(m * k, i as u32), numbers(n * k, 100 + i as u32), k))
        .collect();
    let stored: Vec<_> = terms
        .iter()
        .map(|(left, right, k)| {
            let left = if turn[0] { transposed(left, m, *k) } else { left.clone() };
            let right = if turn[1] { transposed(right, n, *k) } else { right.clone() };
            (cast::<T>(&left), cast::<T>(&right), *k)
        })
        .collect();
    let matrices: Vec<_> = stored
        .iter()
        .map(|(left, right, k)| {
            let shape = |lanes: usize, turn: bool| if turn { (*k, lanes) } else { (lanes, *k) };
            (Dense::new(&left[1..], shape(m, turn[0])), Dense::new(&right[1..], shape(n, turn[1])))
        })
        .collect();
    let packed: Vec<_> =
        matrices.iter().map(|(left, _)| Packed::new(isa, precision, operand(left, turn[0]))).collect();
    let products: Vec<_> =
        packed.iter().zip(&matrices).map(|(left, (_, right))| (left, operand(right, turn[1]))).collect();
    let mut c = vec![f32::NAN; m * n];
    let out = Disjoint::new(&mut c);
    multiply(isa, &products, |tile| store(isa, tile, None, &out, n));
    assert!(c == reference(&terms, m, n), "{isa:?} {precision:?} {m} {n} {depths:?} {turn:?}");
}

#[test]
fn equals_f64_in_every_size_layout_format_and_isa() {
    for isa in Isa::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            for turn in [[false, false], [false, true], [true, false], [true, true]] {
                for (m, n) in [(1, 1), (13, 31), (14, 32), (15, 33), (113, 257), (1, 300), (230, 1)] {
                    check::<f32>(isa, precision, m, n, &[5], turn);
                    check::<bf16>(isa, precision, m, n, &[33, 8], turn);
                    check::<f16>(isa, precision, m, n, &[1, 2, 3], turn);
                }
            }
        }
    }
}

#[test]
fn long_depths_cross_chunks_and_blocks() {
    let isa = Isa::current();
    for precision in [Precision::F32, Precision::Bf16] {
        check::<bf16>(isa, precision, 30, 70, &[1100], [false, false]);
        check::<bf16>(isa, precision, 30, 70, &[1100], [true, true]);
        check::<f32>(isa, precision, 3, 600, &[9000], [false, true]);
    }
}

#[test]
fn empty_products_call_nobody_and_zero_depth_gives_zeros() {
    let isa = Isa::current();
    check::<f32>(isa, Precision::F32, 0, 5, &[3], [false, false]);
    check::<f32>(isa, Precision::F32, 5, 0, &[3], [false, true]);
    check::<f32>(isa, Precision::Bf16, 5, 4, &[0], [true, true]);
}
