//! Conversion of MLX buffers to operands.

use mlx_sys::eat_buffer;

use crate::runtime::operand::{Operand, OperandMut, Slice, SliceMut};
use crate::{Error, Result};

/// Overwrites the contents of `buffer`.
///
/// # Safety
/// The buffer is live, and nothing else refers to it.
///
/// # Errors
/// A buffer of another length or dtype than `numbers`.
pub(crate) unsafe fn overwrite(buffer: &eat_buffer, numbers: &[u32]) -> Result<()> {
    if buffer.dtype != mlx_sys::mlx_dtype__MLX_UINT32 || buffer.size != numbers.len() {
        let message = format!("{} numbers for a place of {}", numbers.len(), buffer.size);
        return Err(Error::Hardware(message));
    }
    // SAFETY: the caller vouches for the buffer, and the size was just compared.
    unsafe { slice_mut::<u32>(buffer.data.cast(), buffer.size) }.copy_from_slice(numbers);
    Ok(())
}

pub(crate) fn operand(buffer: &eat_buffer) -> Operand<'_> {
    // SAFETY: the shim's buffers hold `size` elements of `dtype` and `ndim` dimensions, and
    // live as long as the task that borrows them.
    unsafe {
        Operand {
            shape: slice(buffer.shape, buffer.ndim),
            data: match buffer.dtype {
                mlx_sys::mlx_dtype__MLX_FLOAT32 => Slice::F32(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_FLOAT16 => Slice::F16(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_BFLOAT16 => Slice::Bf16(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_UINT32 => Slice::U32(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_INT32 => Slice::I32(slice(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_UINT8 => Slice::U8(slice(buffer.data.cast(), buffer.size)),
                other => unreachable!("kernels check dtypes before they build a node, got {other}"),
            },
        }
    }
}

pub(super) fn operand_mut(buffer: &eat_buffer) -> OperandMut<'_> {
    // SAFETY: as in `operand`; the output was allocated for this evaluation alone.
    unsafe {
        OperandMut {
            shape: slice(buffer.shape, buffer.ndim),
            data: match buffer.dtype {
                mlx_sys::mlx_dtype__MLX_FLOAT32 => SliceMut::F32(slice_mut(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_FLOAT16 => SliceMut::F16(slice_mut(buffer.data.cast(), buffer.size)),
                mlx_sys::mlx_dtype__MLX_BFLOAT16 => {
                    SliceMut::Bf16(slice_mut(buffer.data.cast(), buffer.size))
                }
                other => unreachable!("kernels check dtypes before they build a node, got {other}"),
            },
        }
    }
}

/// An empty array has a null pointer in MLX, which Rust's slices must not hold.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    // SAFETY: the caller vouches for `len` elements at `data`.
    if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, len) } }
}

unsafe fn slice_mut<'a, T>(data: *mut T, len: usize) -> &'a mut [T] {
    // SAFETY: the caller vouches for `len` elements at `data` that nothing else refers to.
    if len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(data, len) } }
}
