//! Weights that may be quantized. Their arrays are parameters of the layer, so that the keys of a checkpoint
//! equal those of mlx-lm.

use mlx_rs::{Array, Dtype};

use super::Result;
use crate::kernels::linear::Weight;
use crate::kernels::quantized::{self, Format, Mode, PackedWeight};

/// Mutable view of the weight of a layer.
#[derive(Debug)]
pub struct WeightMut<'a> {
    /// `[out, in]`, or the codes of a quantized weight.
    pub weight: &'a mut Array,
    /// Scales, one per group.
    pub scales: &'a mut Option<Array>,
    /// Biases, one per group.
    pub biases: &'a mut Option<Array>,
    /// Quantization format; `None` for a dense weight.
    pub format: &'a mut Option<Format>,
}

impl WeightMut<'_> {
    /// Returns a view of the weight.
    #[must_use]
    pub fn as_weight(&self) -> Weight<'_> {
        weight(self.weight, self.scales.as_ref(), self.biases.as_ref(), *self.format)
    }

    /// Replaces a dense weight by zeros in a quantized format, to be filled from a checkpoint.
    ///
    /// # Errors
    /// Rows that are not a multiple of the group size.
    pub fn allocate(self, format: Format) -> Result<()> {
        let (rows, columns) = (self.weight.dim(0), self.weight.dim(1));
        if !(columns as usize).is_multiple_of(format.row_multiple()) {
            let multiple = format.row_multiple();
            let message = format!("rows of {columns} weights are not a whole number of groups of {multiple}");
            return Err(mlx_rs::error::Exception::custom(message));
        }
        let groups = [rows, columns / format.group_size() as i32];
        *self.weight = Array::zeros::<u32>(&[rows, columns / 32 * format.bits() as i32])?;
        (*self.scales, *self.biases) = match format.mode() {
            Mode::Affine => (Some(Array::zeros::<f32>(&groups)?), Some(Array::zeros::<f32>(&groups)?)),
            Mode::Mxfp4 | Mode::Mxfp8 | Mode::Nvfp4 => (Some(Array::zeros::<u8>(&groups)?), None),
        };
        *self.format = Some(format);
        Ok(())
    }

    /// Checks that shapes and dtypes match the format.
    ///
    /// # Errors
    /// The shapes and dtypes found.
    pub fn validate(self) -> Result<()> {
        match self.as_weight() {
            Weight::Dense(_) | Weight::Sparse(_) => Ok(()),
            Weight::Packed(weight) => weight.shape().map(|_| ()),
        }
    }

    /// Quantizes a dense weight in `format`, to the nearest values; a weight with rows that are not a multiple of the
    /// group size stays dense. Returns whether the weight is quantized.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn quantize(self, format: Format) -> Result<bool> {
        let columns = self.weight.dim(1) as usize;
        if self.format.is_some() || !columns.is_multiple_of(format.row_multiple()) {
            return Ok(self.format.is_some());
        }
        let (codes, scales, biases) = quantized::quantize(self.weight, format)?;
        // Evaluated now, so that the dense weight is freed before the next one is quantized.
        mlx_rs::transforms::eval([&codes, &scales].into_iter().chain(&biases))?;
        (*self.weight, *self.scales, *self.biases) = (codes, Some(scales), biases);
        *self.format = Some(format);
        Ok(true)
    }

    /// Dequantizes the weight to `dtype`; a dense weight is left unchanged.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn dequantize(self, dtype: Dtype) -> Result<()> {
        let dense = match self.as_weight() {
            Weight::Dense(_) | Weight::Sparse(_) => return Ok(()),
            Weight::Packed(weight) => quantized::dequantize(weight, dtype)?,
        };
        mlx_rs::transforms::eval([&dense])?;
        (*self.weight, *self.scales, *self.biases, *self.format) = (dense, None, None, None);
        Ok(())
    }
}

/// Returns a view of the weight.
pub(super) fn weight<'a>(
    weight: &'a Array,
    scales: Option<&'a Array>,
    biases: Option<&'a Array>,
    format: Option<Format>,
) -> Weight<'a> {
    match (format, scales) {
        (Some(format), Some(scales)) => {
            Weight::Packed(PackedWeight { codes: weight, scales, biases, format })
        }
        _ => Weight::Dense(weight),
    }
}

/// Whether `dtype` is a floating-point dtype of activations.
#[must_use]
pub fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;
    use crate::nn::Linear;

    #[test]
    fn a_quantized_layer_is_close_to_the_dense_one() {
        let mut layer = Linear::new(64, 3, false).unwrap();
        *layer.weight =
            Array::arange::<_, f32>(None, 192, None).unwrap().sin().unwrap().reshape(&[3, 64]).unwrap();
        let x = Array::ones::<f32>(&[1, 64]).unwrap();
        let dense = layer.forward(&x).unwrap();
        layer.weight_mut().quantize(Format::affine(8, 32).unwrap()).unwrap();
        assert_eq!((layer.size(), layer.weight.dtype()), ((64, 3), Dtype::Uint32));
        let packed = layer.forward(&x).unwrap();
        eval([&dense, &packed]).unwrap();
        for (dense, packed) in dense.as_slice::<f32>().iter().zip(packed.as_slice::<f32>()) {
            assert!((dense - packed).abs() < 0.1, "{dense} {packed}");
        }
    }

    #[test]
    fn odd_rows_stay_dense_and_are_not_expected_packed() {
        let mut layer = Linear::new(40, 3, false).unwrap();
        let format = Format::affine(4, 64).unwrap();
        layer.weight_mut().quantize(format).unwrap();
        assert_eq!(layer.weight.shape(), [3, 40]);
        assert!(layer.weight_mut().allocate(format).unwrap_err().what().contains("groups of 64"));
    }
}
