//! Quantized weights in MLX's layouts, and products with them.
//!
//! | operand | shape |
//! |---|---|
//! | `codes` | `[out, in·bits/32]`, uint32: codes packed from the least significant bit |
//! | `scales`, `biases` | `[out, in/group_size]` |
//!
//! Quantized weights are used through [`Layer`](crate::linear::Layer). For few input rows (decoding), the packed weights
//! are read once and the product is bound by memory bandwidth; for many (prefill), they are unpacked into the panels of a
//! blocked product.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, Stream};

use crate::error::MlxResult;
use crate::gemm::Precision;
use crate::runtime::operand::Operand;

mod accuracy;
mod activations;
mod dispatch;
mod embedding;
mod encode;
mod format;
mod gemv;
mod groups;
#[cfg(target_arch = "x86_64")]
mod prefill;
mod product;
mod rows;
mod unpack;
#[cfg(target_arch = "x86_64")]
mod unpack_avx512;
mod widen;

pub use accuracy::Accuracy;
pub(super) use dispatch::{describe, is_direct, linear};
pub use embedding::embedding;
pub use encode::{Quantized, pack, quantize};
pub use format::{Format, Mode};
pub(super) use product::Product;
pub(super) use rows::QuantizedRows;

/// A quantized matrix. See the [module](self) for shapes.
#[derive(Debug, Clone, Copy)]
pub struct PackedWeight<'a> {
    /// Packed codes, uint32.
    pub codes: &'a Array,
    /// Scale of each group.
    pub scales: &'a Array,
    /// Bias of each group; affine formats only.
    pub biases: Option<&'a Array>,
    /// Quantization format.
    pub format: Format,
}

impl<'a> PackedWeight<'a> {
    /// Returns `(out, in)`.
    ///
    /// # Errors
    /// Arrays whose shapes or dtypes do not match the format.
    pub fn shape(&self) -> MlxResult<(usize, usize)> {
        let of = |array: &Array| (array.shape().to_vec(), array.dtype());
        let (codes, scales, biases) = (of(self.codes), of(self.scales), self.biases.map(of));
        let biases = biases.as_ref().map(|(shape, dtype)| (shape.as_slice(), *dtype));
        self.format.check((&codes.0, codes.1), (&scales.0, scales.1), biases)
    }

    /// Codes, scales and, of affine formats, biases.
    pub fn operands(&self) -> impl Iterator<Item = &'a Array> + use<'a> {
        [self.codes, self.scales].into_iter().chain(self.biases)
    }
}

/// The packed matrix whose arrays `inputs` begins with; biases are among them only in affine formats.
pub(super) fn weights<'a>(format: Format, inputs: &[Operand<'a>]) -> QuantizedRows<'a> {
    let biases = match format.mode() {
        Mode::Affine => Some(inputs[2].data),
        Mode::Mxfp4 | Mode::Mxfp8 | Mode::Nvfp4 => None,
    };
    QuantizedRows::new(format, inputs[0].shape[0] as usize, inputs[0].data, inputs[1].data, biases)
}

impl Accuracy {
    pub(super) fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 | Self::Int8 => Precision::Bf16,
        }
    }
}

/// Reference implementation of `x·Wᵀ` by MLX.
///
/// # Errors
/// Incompatible shapes.
pub fn reference(x: &Array, weight: PackedWeight) -> MlxResult<Array> {
    let PackedWeight { codes, scales, biases, format } = weight;
    let stream = Stream::thread_local_or_default();
    // SAFETY: all handles outlive the call; a fresh one stands for biases that are absent. `result` is a
    // fresh handle that `Array` adopts.
    unsafe {
        let absent = mlx_sys::mlx_array_new();
        let mut result = mlx_sys::mlx_array_new();
        let status = mlx_sys::mlx_quantized_matmul(
            &raw mut result,
            x.as_ptr(),
            codes.as_ptr(),
            scales.as_ptr(),
            biases.map_or(absent, Array::as_ptr),
            true,
            number(format.group_size()),
            number(format.bits()),
            format.mode().c_name().as_ptr(),
            stream.as_ptr(),
        );
        let result = Array::from_ptr(result);
        if status == 0 { Ok(result) } else { Err(Exception::custom("MLX rejected quantized_matmul")) }
    }
}

/// Dequantizes `weight` to `dtype`: `[..., out, in]`.
///
/// # Errors
/// Incompatible shapes.
pub fn dequantize(weight: PackedWeight, dtype: Dtype) -> MlxResult<Array> {
    let PackedWeight { codes, scales, biases, format } = weight;
    // MLX computes in the format of the scales, which may be narrower than what is asked for.
    let wide = |x: &Array| if x.dtype() == Dtype::Uint8 { Ok(x.clone()) } else { x.as_dtype(Dtype::Float32) };
    let (scales, biases) = (wide(scales)?, biases.map(wide).transpose()?);
    let stream = Stream::thread_local_or_default();
    // SAFETY: as above.
    unsafe {
        let absent = mlx_sys::mlx_array_new();
        let mut result = mlx_sys::mlx_array_new();
        let status = mlx_sys::mlx_dequantize(
            &raw mut result,
            codes.as_ptr(),
            scales.as_ptr(),
            biases.as_ref().map_or(absent, Array::as_ptr),
            number(format.group_size()),
            number(format.bits()),
            format.mode().c_name().as_ptr(),
            absent,
            mlx_sys::mlx_optional_dtype { value: dtype.into(), has_value: true },
            stream.as_ptr(),
        );
        let result = Array::from_ptr(result);
        if status == 0 { Ok(result) } else { Err(Exception::custom("MLX rejected dequantize")) }
    }
}

fn number(value: usize) -> mlx_sys::mlx_optional_int {
    mlx_sys::mlx_optional_int { value: value as i32, has_value: true }
}

#[cfg(test)]
mod tests;
