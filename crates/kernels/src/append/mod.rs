//! Appending rows to a buffer with spare capacity, as a key-value cache grows.
//!
//! | operand | shape |
//! |---|---|
//! | `buffer` | `[batch, capacity, ...]`, rows from `len` on are unspecified; `None` if empty |
//! | `rows` | `[batch, count, ...]` |
//! | result | `[batch, capacity', ...]`, `capacity'` the next multiple of [`BLOCK`], or `capacity` if that is enough |
//!
//! On the CPU the buffer is updated in place if nothing else references it; otherwise it is copied.

use std::ffi::CStr;

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexMutOp as _;
use mlx_rs::ops::{concatenate, zeros_dtype};
use mlx_rs::{Array, Dtype};

use crate::error::MlxResult;
use crate::mlx::apply::apply;
use crate::mlx::device::on_cpu;
use crate::mlx::op::{HostOp, VjpContext, no_gradient};
use crate::runtime::element::Element;
use crate::runtime::operand::{Operand, OperandMut, SliceMut};

/// Granularity of the capacity, in rows: growing copies the buffer.
const BLOCK: u32 = 256;

/// Appends `rows` after the first `len` rows of `buffer`. See the [module](self) for shapes. Not
/// differentiable on the CPU.
///
/// # Errors
/// Incompatible shapes or dtypes; a `len` beyond the capacity.
pub fn append(buffer: Option<Array>, rows: &Array, len: i32) -> MlxResult<Array> {
    let shape = grown_shape(buffer.as_ref(), rows.shape(), rows.dtype(), len)?;
    let float = matches!(rows.dtype(), Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16);
    if !on_cpu() || !float {
        return reference(buffer, rows, len, &shape);
    }
    let op = Append { len: len.unsigned_abs() as usize };
    let inputs: Vec<&Array> = std::iter::once(rows).chain(&buffer).collect();
    apply(op, &inputs, &shape, rows.dtype())
}

/// Shape of the buffer after `rows` are appended.
///
/// # Errors
/// Incompatible shapes or dtypes; a `len` beyond the capacity.
pub(super) fn grown_shape(
    buffer: Option<&Array>,
    rows: &[i32],
    dtype: Dtype,
    len: i32,
) -> MlxResult<Vec<i32>> {
    let capacity = buffer.map_or(0, |buffer| buffer.dim(1));
    let mismatch = || {
        let buffer = buffer.map(Array::shape);
        Exception::custom(format!("append: {rows:?} after {len} rows of {buffer:?}"))
    };
    if rows.len() < 2 || !(0..=capacity).contains(&len) {
        return Err(mismatch());
    }
    let mut shape = rows.to_vec();
    let end = len + shape[1];
    shape[1] =
        if end <= capacity { capacity } else { end.unsigned_abs().next_multiple_of(BLOCK).cast_signed() };
    if let Some(buffer) = buffer {
        let same = buffer.shape()[..1] == shape[..1] && buffer.shape()[2..] == shape[2..];
        if !same || buffer.dtype() != dtype {
            return Err(mismatch());
        }
    }
    Ok(shape)
}

/// Reference implementation composed of MLX operations; `shape` is that of the result.
fn reference(buffer: Option<Array>, rows: &Array, len: i32, shape: &[i32]) -> MlxResult<Array> {
    let fresh = |capacity: i32| {
        let mut shape = shape.to_vec();
        shape[1] = capacity;
        zeros_dtype(&shape, rows.dtype())
    };
    let mut result = match buffer {
        Some(buffer) if buffer.dim(1) == shape[1] => buffer,
        Some(buffer) => {
            let more = fresh(shape[1] - buffer.dim(1))?;
            concatenate(&[buffer, more], 1)?
        }
        None => fresh(shape[1])?,
    };
    result.try_index_mut((.., len..len + rows.dim(1)), rows)?;
    Ok(result)
}

/// Inputs `rows` and, unless it is the first, `buffer`.
struct Append {
    len: usize,
}

impl HostOp for Append {
    const NAME: &'static CStr = c"EatAppend";

    fn donors(&self, inputs: usize, _outputs: usize) -> Vec<Option<usize>> {
        vec![(inputs > 1).then_some(1)]
    }

    fn eval(&self, inputs: &[Operand], outputs: &mut [OperandMut]) {
        match outputs[0].data {
            SliceMut::F32(_) => self.write::<f32>(inputs, &mut outputs[0]),
            SliceMut::F16(_) => self.write::<half::f16>(inputs, &mut outputs[0]),
            SliceMut::Bf16(_) => self.write::<half::bf16>(inputs, &mut outputs[0]),
        }
    }

    fn vjp(&self, _: &VjpContext, _: &[usize]) -> MlxResult<Vec<Array>> {
        no_gradient(Self::NAME)
    }
}

impl Append {
    fn write<T: Element>(&self, inputs: &[Operand], out: &mut OperandMut) {
        let size = |shape: &[i32]| shape.iter().map(|&dim| dim.unsigned_abs() as usize).product::<usize>();
        let extent = Extent {
            row: size(&out.shape[2..]),
            len: self.len,
            count: size(&inputs[0].shape[1..2]),
            capacity: size(&out.shape[1..2]),
            old_capacity: inputs.get(1).map_or(0, |buffer| size(&buffer.shape[1..2])),
        };
        let old = inputs.get(1).map(|buffer| T::of(&buffer.data));
        write(extent, old, T::of(&inputs[0].data), T::of_mut(&mut out.data));
    }
}

/// Sizes of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// Numbers of a row.
    pub row: usize,
    /// Rows stored.
    pub len: usize,
    /// Rows to append.
    pub count: usize,
    /// Rows of the result.
    pub capacity: usize,
    /// Rows of the buffer.
    pub old_capacity: usize,
}

/// Writes `rows` after the first `len` rows of `out`. If `old` has no elements it was donated and `out` holds its rows;
/// otherwise they are copied from `old`, and spare capacity is zeroed.
pub(super) fn write<T: Element>(extent: Extent, old: Option<&[T]>, rows: &[T], out: &mut [T]) {
    let Extent { row, len, count, capacity, old_capacity } = extent;
    let fresh = old.is_none_or(|old| !old.is_empty());
    let (start, end) = (len * row, (len + count) * row);
    for (i, out) in out.chunks_exact_mut((capacity * row).max(1)).enumerate() {
        if fresh {
            if let Some(old) = old {
                out[..start].copy_from_slice(&old[i * old_capacity * row..][..start]);
            }
            out[end..].fill(T::from_f32(0.0));
        }
        out[start..end].copy_from_slice(&rows[i * count * row..][..count * row]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval;

    fn rows(batch: i32, count: i32, from: i32) -> Array {
        let numbers: Vec<f32> =
            (0..batch).flat_map(|b| (0..count * 3).map(move |i| (1000 * b + 3 * from + i) as f32)).collect();
        Array::from_slice(&numbers, &[batch, count, 3])
    }

    fn check(buffer: &Array, batch: i32, len: i32) {
        eval([buffer]).unwrap();
        let (numbers, capacity) = (buffer.to_vec_exact::<f32>().unwrap(), buffer.dim(1));
        for b in 0..batch {
            let expected: Vec<f32> = (0..len * 3).map(|i| (1000 * b + i) as f32).collect();
            assert_eq!(numbers[(b * capacity * 3) as usize..][..expected.len()], expected, "{b}");
        }
    }

    #[test]
    fn rows_follow_each_other() {
        for batch in [1, 2] {
            let mut buffer: Option<Array> = None;
            let mut len = 0;
            for (count, capacity) in [(3, 256), (1, 256), (252, 256), (300, 768), (1, 768)] {
                let next = append(buffer.take(), &rows(batch, count, len), len).unwrap();
                len += count;
                assert_eq!(next.shape(), [batch, capacity, 3]);
                check(&next, batch, len);
                buffer = Some(next);
            }
            let shape = [batch, 768, 3];
            check(&reference(buffer, &rows(batch, 2, len), len, &shape).unwrap(), batch, len + 2);
            check(&reference(None, &rows(batch, 2, 0), 0, &shape).unwrap(), batch, 2);
        }
    }

    #[test]
    fn memory_is_taken_over_only_from_those_who_gave_it_away() {
        let address = |array: &Array| array.as_slice::<f32>().as_ptr();
        let first = append(None, &rows(1, 2, 0), 0).unwrap();
        eval([&first]).unwrap();
        let place = address(&first);
        let second = append(Some(first), &rows(1, 1, 2), 2).unwrap();
        check(&second, 1, 3);
        assert_eq!(address(&second), place);
        let kept = second.clone();
        let third = append(Some(second), &rows(1, 1, 7), 2).unwrap();
        eval([&third]).unwrap();
        assert_ne!(address(&third), place);
        check(&kept, 1, 3);
        check(&third, 1, 2);
        assert_eq!(third.as_slice::<f32>()[6..9], [21.0, 22.0, 23.0]);
    }

    #[test]
    fn misfits_are_refused() {
        let buffer = append(None, &rows(1, 2, 0), 0).unwrap();
        assert!(append(Some(buffer.clone()), &rows(2, 1, 0), 2).is_err());
        assert!(append(Some(buffer), &rows(1, 1, 0), 257).is_err());
        assert!(append(None, &rows(1, 1, 0), 1).is_err());
    }
}
