use half::{bf16, f16};

use super::*;
use crate::eval;
use crate::testing::{FLOATS, assert_close, draw, gradients, unaligned};

fn kernels_equal_plain_loops<T: Element>() {
    let sizes = [(1, 1, 1), (7, 33, 20), (5000, 20, 300), (4, 0, 3), (3, 8, 0)];
    for (isa, (vocab, hidden, count)) in Isa::available().flat_map(|isa| sizes.map(|size| (isa, size))) {
        let context = format!("{isa:?} {vocab} × {hidden}, {count} ids");
        let table = unaligned::<T>(vocab * hidden, 1);
        let rows: Vec<u32> = (0..count).map(|i| (i * i * 31 % vocab) as u32).collect();
        let mut out = vec![T::from_f32(f32::NAN); count * hidden + 1];
        cpu::gather(hidden, &table[1..], &rows, &mut out[1..]);
        let expected: Vec<T> =
            rows.iter().flat_map(|&row| &table[1 + row as usize * hidden..][..hidden]).copied().collect();
        assert!(
            bytemuck::cast_slice::<T, u8>(&out[1..]) == bytemuck::cast_slice::<T, u8>(&expected),
            "{context}"
        );

        let mut grad = vec![T::from_f32(f32::NAN); vocab * hidden + 1];
        cpu::scatter_add(isa, hidden, &rows, &expected, &mut grad[1..]);
        let mut sums = vec![0.0_f32; vocab * hidden];
        for (i, &row) in rows.iter().enumerate() {
            for j in 0..hidden {
                sums[row as usize * hidden + j] += Element::to_f32(expected[i * hidden + j]);
            }
        }
        for (x, sum) in grad[1..].iter().zip(&sums) {
            let expected = T::from_f32(*sum);
            assert!(bytemuck::bytes_of(x) == bytemuck::bytes_of(&expected), "{context}: {sum}");
        }
    }
}

#[test]
fn kernels_equal_plain_loops_on_every_instruction_set() {
    kernels_equal_plain_loops::<f32>();
    kernels_equal_plain_loops::<f16>();
    kernels_equal_plain_loops::<bf16>();
}

#[test]
fn forward_and_gradient_equal_mlx() {
    for dtype in FLOATS {
        let table = draw(&[11, 24], dtype, 1);
        let wide = [Array::from_slice(&[3_i32, 10, 3, 0, 3, 7], &[2, 3]), Array::from_slice(&[5_u32], &[1])];
        for ids in wide.iter().chain([&Array::from_slice(&[2_u8, 2], &[2])]) {
            let context = format!("{dtype:?} {:?}", ids.dtype());
            let (ours, mlx) = (embedding(&table, ids).unwrap(), reference(&table, ids).unwrap());
            assert_close(&ours, &mlx, &context);
            let grads = |f: fn(&Array, &Array) -> MlxResult<Array>| {
                gradients(|x| Ok(vec![f(&x[0], ids)?]), std::slice::from_ref(&table), &[0])
            };
            assert_close(&grads(embedding)[0], &grads(reference)[0], &context);
        }
    }
}

#[test]
fn numbers_out_of_range_are_named() {
    for (ids, id) in [([5_i32, 11], "11"), ([-1, 3], "-1")] {
        let ids = Operand { shape: &[2], data: Slice::I32(&ids) };
        let panic = std::panic::catch_unwind(|| row_indices(&ids, 11)).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains(&format!("token id {id} ")), "{message}");
    }
    let no_rows = embedding(&draw(&[3], Dtype::Float32, 1), &Array::from_slice(&[0_i32], &[1]));
    assert!(no_rows.unwrap_err().what().contains("[3]"));
    let fine = embedding(&draw(&[3, 2], Dtype::Float32, 1), &Array::from_slice(&[2_i32], &[1])).unwrap();
    eval([&fine]).unwrap();
}
