//! Two-dimensional convolution, channels last.

use mlx_macros::ModuleParameters;
use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::module::Param;
use mlx_rs::ops::indexing::TryIndexOp as _;

use super::Result;
use crate::kernels::conv::{Options, conv2d};
use crate::kernels::linear::{Layer, Weight, linears};

/// Convolution without padding, as the patch embedding of a vision transformer
/// ([ViT](https://arxiv.org/abs/2010.11929)).
#[derive(Debug, Clone, ModuleParameters)]
pub struct Conv2d {
    /// `[out, height, width, in]`.
    #[param]
    pub weight: Param<Array>,
    /// `[out]`.
    #[param]
    pub bias: Param<Option<Array>>,
    /// Step of the kernel, vertical and horizontal.
    pub stride: usize,
}

impl Conv2d {
    /// Creates a square kernel of zeros.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new(inputs: i32, outputs: i32, kernel: i32, stride: usize, bias: bool) -> Result<Self> {
        let bias = if bias { Some(Array::zeros::<f32>(&[outputs])?) } else { None };
        Ok(Self {
            weight: Param::new(Array::zeros::<f32>(&[outputs, kernel, kernel, inputs])?),
            bias: Param::new(bias),
            stride,
        })
    }

    /// `x`: `[batch, height, width, in]` → `[batch, height', width', out]`, in the dtype of the weight.
    ///
    /// Where kernels do not overlap this is one matrix product, whose rows are the patches.
    ///
    /// # Errors
    /// Incompatible shapes, or images smaller than the kernel.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let x = x.as_dtype(self.weight.dtype())?;
        let &[outputs, kernel, width, _] = self.weight.shape() else {
            return Err(Exception::custom("a convolution whose weight has not four dimensions"));
        };
        if x.ndim() != 4 || kernel != width || self.stride != kernel.unsigned_abs() as usize {
            let options = Options { stride: [self.stride; 2], ..Options::default() };
            let y = conv2d(&x, &self.weight, options)?;
            return (*self.bias).as_ref().map_or(Ok(y.clone()), |bias| y.add(bias.as_dtype(y.dtype())?));
        }
        let (rows, columns) = (x.dim(1) / kernel, x.dim(2) / kernel);
        if rows == 0 || columns == 0 {
            return Err(Exception::custom(format!(
                "images {:?} are smaller than patches of {kernel}",
                x.shape()
            )));
        }
        // What does not fill a patch is cut off.
        let x = x.try_index((.., ..rows * kernel, ..columns * kernel))?;
        let patches = x
            .reshape(&[x.dim(0), rows, kernel, columns, kernel, x.dim(3)])?
            .transpose_axes(&[0, 1, 3, 2, 4, 5])?
            .reshape(&[x.dim(0), rows, columns, -1])?;
        let weight = self.weight.reshape(&[outputs, -1])?;
        let layer = Layer { bias: (*self.bias).as_ref(), ..Layer::plain(Weight::Dense(&weight)) };
        Ok(linears(&patches, &[layer])?.swap_remove(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::conv::conv2d_reference;
    use crate::kernels::eval;

    fn numbers(shape: &[i32]) -> Array {
        let count: i32 = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (i * 37 % 23) as f32 / 11.0 - 1.0).collect();
        Array::from_slice(&values, shape)
    }

    #[test]
    fn patches_and_overlapping_kernels_equal_mlx() {
        // The last row and column of pixels fill no patch of 3.
        for stride in [3, 2] {
            let mut conv = Conv2d::new(2, 4, 3, stride, true).unwrap();
            *conv.weight = numbers(&[4, 3, 3, 2]);
            *conv.bias = Some(numbers(&[4]));
            let x = numbers(&[2, 7, 10, 2]);
            let options = Options { stride: [stride; 2], ..Options::default() };
            let expected = conv2d_reference(&x, &conv.weight, options).unwrap();
            let expected = expected.add((*conv.bias).as_ref().unwrap()).unwrap();
            let y = conv.forward(&x).unwrap();
            eval([&y, &expected]).unwrap();
            assert_eq!(y.shape(), expected.shape());
            let errors = y.as_slice::<f32>().iter().zip(expected.as_slice::<f32>());
            assert!(errors.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-5);
        }
    }

    #[test]
    fn images_smaller_than_a_patch_are_refused() {
        let error = Conv2d::new(3, 4, 8, 8, false).unwrap().forward(&numbers(&[1, 8, 4, 3])).unwrap_err();
        assert!(error.what().contains("smaller than patches of 8"), "{}", error.what());
    }
}
