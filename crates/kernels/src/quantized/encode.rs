//! From values to codes.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Stream};

use super::{Format, number};
use crate::error::MlxResult;

/// Arrays of a quantized matrix: codes, scales and, of affine formats, biases.
pub type Quantized = (Array, Array, Option<Array>);

/// Rounds `weight`, `[..., out, in]`, to the nearest values of `format`, as MLX does.
///
/// # Errors
/// Rows that are not whole groups.
pub fn quantize(weight: &Array, format: Format) -> MlxResult<Quantized> {
    let stream = Stream::thread_local_or_default();
    // SAFETY: all handles outlive the call; a fresh one stands for a global scale, which is absent. Results are fresh
    // handles that `Array` adopts.
    let mut arrays = unsafe {
        let mut results = mlx_sys::mlx_vector_array_new();
        let status = mlx_sys::mlx_quantize(
            &raw mut results,
            weight.as_ptr(),
            number(format.group_size()),
            number(format.bits()),
            format.mode().c_name().as_ptr(),
            mlx_sys::mlx_array_new(),
            stream.as_ptr(),
        );
        let count = if status == 0 { mlx_sys::mlx_vector_array_size(results) } else { 0 };
        let arrays: Vec<Array> = (0..count)
            .map(|index| {
                let mut array = mlx_sys::mlx_array_new();
                mlx_sys::mlx_vector_array_get(&raw mut array, results, index);
                Array::from_ptr(array)
            })
            .collect();
        mlx_sys::mlx_vector_array_free(results);
        arrays.into_iter()
    };
    match (arrays.next(), arrays.next()) {
        (Some(codes), Some(scales)) => Ok((codes, scales, arrays.next())),
        _ => Err(Exception::custom(format!(
            "rows of {} weights are not whole groups of {}",
            weight.dim(-1),
            format.group_size()
        ))),
    }
}

/// Packs codes of `bits` bits from the least significant bit, in MLX's layout; rows are multiples of 32 codes.
#[must_use]
pub fn pack(codes: &[u8], bits: usize) -> Vec<u32> {
    let pack = |codes: &[u8]| {
        let mut words = [0_u32; 8];
        for (index, &code) in codes.iter().enumerate() {
            let (word, shift) = (index * bits / 32, index * bits % 32);
            let wide = u64::from(code) << shift;
            words[word] |= wide as u32;
            if shift + bits > 32 {
                words[word + 1] |= (wide >> 32) as u32;
            }
        }
        words.into_iter().take(bits)
    };
    codes.chunks(32).flat_map(pack).collect()
}

#[cfg(test)]
mod tests {
    use mlx_rs::Dtype;

    use super::*;
    use crate::eval;
    use crate::quantized::{PackedWeight, dequantize};

    #[test]
    fn packed_codes_are_read_back_by_mlx() {
        for bits in [2, 3, 4, 5, 6, 8] {
            let codes: Vec<u8> = (0..128_usize).map(|i| (i * 37 % (1 << bits)) as u8).collect();
            let words = Array::from_slice(&pack(&codes, bits), &[2, 2 * bits as i32]);
            let (ones, zeros) = (Array::ones::<f32>(&[2, 2]).unwrap(), Array::zeros::<f32>(&[2, 2]).unwrap());
            let format = Format::affine(bits, 32).unwrap();
            let packed = PackedWeight { codes: &words, scales: &ones, biases: Some(&zeros), format };
            let values = dequantize(packed, Dtype::Float32).unwrap();
            eval([&values]).unwrap();
            let expected: Vec<f32> = codes.iter().map(|&code| f32::from(code)).collect();
            assert_eq!(values.as_slice::<f32>(), expected, "{bits} bits");
        }
    }

    #[test]
    fn every_format_of_mlx_can_be_written() {
        let weight =
            Array::arange::<_, f32>(None, 256, None).unwrap().sin().unwrap().reshape(&[4, 64]).unwrap();
        for format in [Format::affine(4, 32).unwrap(), Format::MXFP4, Format::MXFP8, Format::NVFP4] {
            let (codes, scales, biases) = quantize(&weight, format).unwrap();
            let packed = PackedWeight { codes: &codes, scales: &scales, biases: biases.as_ref(), format };
            assert_eq!(packed.shape().unwrap(), (4, 64));
        }
        assert!(
            quantize(&weight, Format::affine(4, 128).unwrap()).unwrap_err().what().contains("groups of 128")
        );
    }
}
