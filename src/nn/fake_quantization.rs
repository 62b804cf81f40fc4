//! Weights rounded in a graph that is trained through: the value is that of the rounded weight, and the gradient that of
//! the weight itself ([straight-through estimator](https://arxiv.org/abs/1308.3432)).
//!
//! Each group takes the better of two grids: from its smallest to its largest weight, or the one that suits normally
//! distributed weights best, which cuts off outliers for the sake of all others.

use mlx_rs::ops::{clip, maximum, round, select};
use mlx_rs::{Array, Dtype, stop_gradient};

use super::Result;
use super::quantized::WeightMut;
use crate::kernels::quantized::{Format, pack};

/// Smallest scale of a group.
const MIN_SCALE: f32 = 1e-7;

/// A weight on the grid of an affine format: `scale·code + bias`.
struct Rounded {
    /// `[rows, groups, group_size]`
    codes: Array,
    /// `[rows, groups, 1]`, rounded to the dtype of the weight, in float32.
    scales: Array,
    /// As `scales`.
    biases: Array,
}

/// Rounds the dense `weight`, `[rows, columns]`, to `format`, which must be affine. Gradients pass through as if it were
/// not rounded.
///
/// # Errors
/// Rows that are not whole groups.
pub fn fake_quantize(weight: &Array, format: Format) -> Result<Array> {
    let wide = weight.as_dtype(Dtype::Float32)?;
    let fixed = stop_gradient(&wide)?;
    let rounded = Rounded::of(&fixed, weight.dtype(), format)?.value()?.reshape(weight.shape())?;
    wide.add(stop_gradient(rounded.subtract(&fixed)?)?)?.as_dtype(weight.dtype())
}

/// Replaces the dense `weight` by codes whose value is that of [`fake_quantize`].
///
/// # Errors
/// Rows that are not whole groups.
pub fn quantize(weight: WeightMut, format: Format) -> Result<()> {
    let WeightMut { weight, scales: scales_slot, biases: biases_slot, format: format_slot } = weight;
    let (rows, columns, dtype) = (weight.dim(0), weight.dim(1), weight.dtype());
    let Rounded { codes, scales, biases } = Rounded::of(&weight.as_dtype(Dtype::Float32)?, dtype, format)?;
    let codes = codes.as_dtype(Dtype::Uint8)?.contiguous()?;
    let groups = [rows, columns / format.group_size() as i32];
    let [scales, biases] = [scales, biases].map(|x| x.reshape(&groups)?.as_dtype(dtype));
    let (scales, biases) = (scales?, biases?);
    mlx_rs::transforms::eval([&codes, &scales, &biases])?;
    let words = pack(codes.as_slice::<u8>(), format.bits());
    *weight = Array::from_slice(&words, &[rows, columns / 32 * format.bits() as i32]);
    (*scales_slot, *biases_slot, *format_slot) = (Some(scales), Some(biases), Some(format));
    Ok(())
}

impl Rounded {
    /// Rounds `weight`, in float32, to a grid whose scales and biases are numbers of `dtype`.
    fn of(weight: &Array, dtype: Dtype, format: Format) -> Result<Self> {
        let (size, max) = (format.group_size() as i32, ((1_u32 << format.bits()) - 1) as f32);
        let groups = weight.reshape(&[weight.dim(0), -1, size])?;
        let (low, high) = (groups.min_axis(-1, true)?, groups.max_axis(-1, true)?);
        let scales = high.subtract(&low)?.divide(Array::from_f32(max))?;
        let whole = Self::on(&groups, (scales, low), dtype, max)?;
        let Some(step) = normal_step(format.bits()) else { return Ok(whole) };
        let (mean, deviation) = (groups.mean_axis(-1, true)?, groups.var_axis(-1, true, 0)?.sqrt()?);
        let scales = deviation.multiply(Array::from_f32(step))?;
        let biases = mean.subtract(scales.multiply(Array::from_f32(max / 2.0))?)?;
        let normal = Self::on(&groups, (scales, biases), dtype, max)?;
        let better = normal.error(&groups)?.lt(whole.error(&groups)?)?;
        Ok(Self {
            codes: select(&better, normal.codes, whole.codes)?,
            scales: select(&better, normal.scales, whole.scales)?,
            biases: select(&better, normal.biases, whole.biases)?,
        })
    }

    fn on(groups: &Array, (scales, biases): (Array, Array), dtype: Dtype, max: f32) -> Result<Self> {
        let narrow = |x: Array| x.as_dtype(dtype)?.as_dtype(Dtype::Float32);
        let scales = narrow(maximum(scales, Array::from_f32(MIN_SCALE))?)?;
        let biases = narrow(biases)?;
        // Half precision may have no number so small.
        let divisor = maximum(&scales, Array::from_f32(MIN_SCALE))?;
        let codes = round(groups.subtract(&biases)?.divide(divisor)?, 0)?;
        let codes = clip(&codes, (0.0, max))?;
        Ok(Self { codes, scales, biases })
    }

    fn value(&self) -> Result<Array> {
        self.codes.multiply(&self.scales)?.add(&self.biases)
    }

    /// Sum of the squared errors of each group.
    fn error(&self, groups: &Array) -> Result<Array> {
        self.value()?.subtract(groups)?.square()?.sum_axis(-1, true)
    }
}

/// Step of the uniform quantizer with the least squared error for a normal distribution, in standard deviations
/// ([Max 1960](https://doi.org/10.1109/TIT.1960.1057548)); `None` where a group is too small to have outliers.
fn normal_step(bits: usize) -> Option<f32> {
    match bits {
        2 => Some(0.9957),
        3 => Some(0.5860),
        4 => Some(0.3352),
        5 => Some(0.1881),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::random;
    use mlx_rs::transforms::grad;

    use super::*;
    use crate::kernels::eval;
    use crate::kernels::linear::Weight;
    use crate::kernels::quantized::dequantize;
    use crate::nn::Linear;

    fn normal(shape: &[i32], seed: u64) -> Array {
        random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
    }

    fn values(x: &Array) -> Vec<f32> {
        let x = x.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap();
        eval([&x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    #[test]
    fn the_gradient_is_that_of_the_rounded_loss_taken_straight_through() {
        let (weight, target) = (normal(&[3, 64], 1), normal(&[3, 64], 2));
        let format = Format::affine(3, 32).unwrap();
        let loss = |weight: &Array| -> Result<Array> {
            fake_quantize(weight, format)?.subtract(&target)?.square()?.sum(None)
        };
        let found = values(&grad(loss)(&weight).unwrap());
        // d/dQ Σ (Q - t)² at Q(W), not at W.
        let rounded = values(&fake_quantize(&weight, format).unwrap());
        for ((found, rounded), target) in found.iter().zip(rounded).zip(values(&target)) {
            assert!((found - 2.0 * (rounded - target)).abs() < 1e-5, "{found} {rounded} {target}");
        }
    }

    #[test]
    fn packed_values_are_the_trained_ones() {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            for bits in [2, 3, 4, 5, 6, 8] {
                let mut layer = Linear::new(64, 5, false).unwrap();
                *layer.weight = normal(&[5, 64], 3).as_dtype(dtype).unwrap();
                let format = Format::affine(bits, 32).unwrap();
                let trained = values(&fake_quantize(&layer.weight, format).unwrap());
                quantize(layer.weight_mut(), format).unwrap();
                let Weight::Packed(packed) = layer.matrix() else { panic!("not packed") };
                let packed = values(&dequantize(packed, dtype).unwrap());
                for (packed, trained) in packed.iter().zip(trained) {
                    assert!((packed - trained).abs() < 1e-6, "{dtype:?} {bits}: {packed} {trained}");
                }
            }
        }
    }

    #[test]
    fn outliers_are_cut_off_where_that_is_better() {
        let mut weights = values(&normal(&[1, 64], 4));
        weights[7] = 9.0;
        let weight = Array::from_slice(&weights, &[1, 64]);
        let error = |x: &[f32]| x.iter().zip(&weights).map(|(x, w)| (x - w).powi(2)).sum::<f32>();
        let ours = error(&values(&fake_quantize(&weight, Format::affine(2, 64).unwrap()).unwrap()));
        let (codes, scales, biases) = mlx_rs::ops::quantize(&weight, 64, 2).unwrap();
        let plain = mlx_rs::ops::dequantize(&codes, &scales, &biases, 64, 2).unwrap();
        assert!(ours < error(&values(&plain)), "{ours}");
    }

    #[test]
    fn groups_without_spread_keep_their_value() {
        for value in [0.0, 0.25, -3.0] {
            let weight = Array::full::<f32>(&[1, 32], Array::from_f32(value)).unwrap();
            let rounded = values(&fake_quantize(&weight, Format::affine(2, 32).unwrap()).unwrap());
            assert!(rounded.iter().all(|x| (x - value).abs() < 1e-6), "{rounded:?}");
        }
    }
}
