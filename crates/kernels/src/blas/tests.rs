use super::*;

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as f32 / 16.0 - 8.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Rows and columns that are `gap` elements longer than they need be, after one element of another matrix.
fn check(isa: Isa, [m, n, k]: [usize; 3], turn: [bool; 2], gap: usize, [alpha, beta]: [f32; 2]) {
    let stored =
        |rows: usize, columns: usize, turn: bool| if turn { (columns, rows) } else { (rows, columns) };
    let (a_shape, b_shape) = (stored(m, k, turn[0]), stored(k, n, turn[1]));
    let matrix = |shape: (usize, usize), seed| numbers(1 + shape.0 * (shape.1 + gap), seed);
    let (a, b) = (matrix(a_shape, 1), matrix(b_shape, 2));
    let mut c = matrix((m, n), 3);
    let mut expected = c.clone();
    let at = |data: &[f32], shape: (usize, usize), turn: bool, i: usize, j: usize| {
        let (i, j) = if turn { (j, i) } else { (i, j) };
        f64::from(data[1 + i * (shape.1 + gap) + j])
    };
    for i in 0..m {
        for j in 0..n {
            let sum: f64 =
                (0..k).map(|s| at(&a, a_shape, turn[0], i, s) * at(&b, b_shape, turn[1], s, j)).sum();
            let c = &mut expected[1 + i * (n + gap) + j];
            *c = (f64::from(alpha) * sum + f64::from(beta) * f64::from(*c)) as f32;
        }
    }
    if beta == 0.0 {
        // What was there is not read.
        (0..m).for_each(|i| c[1 + i * (n + gap)..][..n].fill(f32::NAN));
    }
    let operand = |data: &'_ [f32], shape: (usize, usize), transposed| {
        // Borrowed for the call only.
        let len = (shape.0.max(1) - 1) * (shape.1 + gap) + shape.1;
        // SAFETY: within `data`, which outlives the call.
        let data = unsafe { std::slice::from_raw_parts(data[1..].as_ptr(), len) };
        Operand { data, shape, stride: shape.1 + gap, transposed }
    };
    let (left, right) = (operand(&a, a_shape, turn[0]), operand(&b, b_shape, turn[1]));
    let data = Disjoint::new(&mut c[1..]);
    sgemm(isa, [m, n, k], alpha, left, right, beta, Output { data, stride: n + gap });
    for (ours, exact) in c.iter().zip(&expected) {
        let tolerance = 1e-4 * (1.0 + exact.abs()) + 1e-5 * k as f32;
        assert!((ours - exact).abs() <= tolerance, "{isa:?} {m} {n} {k} {turn:?} {gap}: {ours} {exact}");
    }
}

#[test]
fn equals_f64_in_every_layout_size_and_isa() {
    for isa in Isa::available() {
        for turn in [[false, false], [false, true], [true, false], [true, true]] {
            for gap in [0, 3] {
                for size in [[1, 1, 1], [1, 300, 257], [3, 17, 1000], [8, 33, 40], [20, 21, 22], [60, 47, 35]]
                {
                    check(isa, size, turn, gap, [1.0, 0.0]);
                    check(isa, size, turn, gap, [0.5, -2.0]);
                }
                check(isa, [3, 4, 0], turn, gap, [1.0, 0.5]);
            }
        }
    }
}

#[test]
#[expect(clippy::float_cmp, reason = "small whole numbers are exact")]
fn the_c_interface_knows_both_orders() {
    // [1 2 3; 4 5 6] · [1 0; 0 1; 1 1] = [4 5; 10 11]
    let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let (a_columns, b_columns) = ([1.0, 4.0, 2.0, 5.0, 3.0, 6.0], [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]);
    let call = |order, [turn_a, turn_b]: [c_int; 2], a: &[f32; 6], b: &[f32; 6], [lda, ldb]: [c_int; 2]| {
        let mut c = [1.0; 4];
        // SAFETY: matrices of 2 × 3, 3 × 2 and 2 × 2 in either order.
        unsafe {
            let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            cblas_sgemm(order, turn_a, turn_b, 2, 2, 3, 2.0, a, lda, b, ldb, 1.0, c, 2);
        }
        c
    };
    let before = sgemm_calls();
    assert_eq!(call(101, [111, 111], &a, &b, [3, 2]), [9.0, 11.0, 21.0, 23.0]);
    assert_eq!(call(101, [112, 112], &a_columns, &b_columns, [2, 3]), [9.0, 11.0, 21.0, 23.0]);
    assert_eq!(call(102, [111, 111], &a_columns, &b_columns, [2, 3]), [9.0, 21.0, 11.0, 23.0]);
    assert_eq!(call(102, [113, 112], &a, &b, [3, 2]), [9.0, 21.0, 11.0, 23.0]);
    assert!(sgemm_calls() >= before + 4);
}

#[test]
#[expect(clippy::float_cmp, reason = "small whole numbers are exact")]
fn nothing_to_multiply_scales_and_nothing_to_write_reads_nothing() {
    let mut c = [1.0, 2.0];
    let nothing = std::ptr::null();
    // SAFETY: of these matrices only C has elements that are used.
    unsafe {
        cblas_sgemm(101, 111, 111, 1, 2, 0, 1.0, nothing, 1, nothing, 2, 3.0, c.as_mut_ptr(), 2);
        cblas_sgemm(101, 111, 111, 1, 2, 5, 0.0, nothing, 5, nothing, 2, 3.0, c.as_mut_ptr(), 2);
        cblas_sgemm(101, 111, 111, 0, 2, 5, 1.0, nothing, 5, nothing, 2, 3.0, std::ptr::null_mut(), 2);
    }
    assert_eq!(c, [9.0, 18.0]);
}
