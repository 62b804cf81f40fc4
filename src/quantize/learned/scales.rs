//! Scales and biases in training.
//!
//! ```text
//! W = scale·code + bias        scale = scale₀·(1 + r)        bias = bias₀ + scale₀·(o - r·c)
//! ```
//!
//! Trained are `r` and `o` of each group. They are relative to the scale that the group had before, so that one learning
//! rate suits all layers; and since `c` is the middle code, a change of `r` leaves the middle of the group where it is.
//! In a model, they stand in the place of scales and biases.

use std::collections::BTreeMap;

use mlx_rs::{Array, Dtype, stop_gradient};

use crate::kernels::linear::Weight;
use crate::kernels::quantized::{Mode, PackedWeight, dequantize};
use crate::models::Model;
use crate::nn;
use crate::nn::quantized::WeightMut;
use crate::{Error, Result, kernels};

/// The layers whose scales and biases are trained, by key path.
#[derive(Debug)]
pub(super) struct LearnedLayers(BTreeMap<String, LearnedLayer>);

/// What does not change in training.
#[derive(Debug)]
struct LearnedLayer {
    /// `[rows, groups, group_size]`, uint8.
    codes: Array,
    /// `scale₀`, `[rows, groups]` in float32.
    scales: Array,
    /// As `scales`.
    biases: Array,
    /// `c`
    middle: f32,
    /// Dtype of the stored scales and biases.
    dtype: Dtype,
}

impl LearnedLayers {
    /// Puts `r = 0` and `o = 0` in the place of all scales and biases of affine formats.
    ///
    /// # Errors
    /// A model without such layers.
    pub(super) fn begin(model: &mut Model) -> Result<Self> {
        let mut layers = BTreeMap::new();
        model.visit_quantizable(&mut |path, weight| {
            let Weight::Packed(packed) = weight.as_weight() else { return Ok(()) };
            if packed.format.mode() != Mode::Affine {
                return Ok(());
            }
            layers.insert(path.to_owned(), LearnedLayer::new(packed)?);
            let zeros = Array::zeros::<f32>(packed.scales.shape())?;
            (*weight.scales, *weight.biases) = (Some(zeros.clone()), Some(zeros));
            Ok(())
        })?;
        if layers.is_empty() {
            return Err(Error::Config(
                "technique \"learned\" trains scales and biases, but no layer has any: choose mode \"affine\"".into(),
            ));
        }
        Ok(Self(layers))
    }

    /// Names of the trained parameters.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.keys().flat_map(|path| ["scales", "biases"].map(|leaf| format!("{path}.{leaf}"))).collect()
    }

    /// Names of the weights that are computed from them.
    pub(super) fn weights(&self) -> impl Iterator<Item = String> {
        self.0.keys().map(|path| format!("{path}.weight"))
    }

    /// Whether the layer at `path` is one of them.
    pub(super) fn contains(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// Returns `W` of the layer at `path` in `dtype`, `[rows, columns]`, if it is one of them. Gradients are those of
    /// scales and biases that are not rounded to their dtype.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn weight(&self, path: &str, trained: &WeightMut, dtype: Dtype) -> nn::Result<Option<Array>> {
        let (Some(layer), Some(r), Some(o)) = (self.0.get(path), &*trained.scales, &*trained.biases) else {
            return Ok(None);
        };
        let [scales, biases] = layer.affine(r, o)?;
        let codes = layer.codes.as_dtype(Dtype::Float32)?;
        let groups = codes.multiply(scales.expand_dims(-1)?)?.add(biases.expand_dims(-1)?)?;
        groups.reshape(&[layer.codes.dim(0), -1])?.as_dtype(dtype).map(Some)
    }

    /// Puts scales and biases back in their place, as they were trained or, unless `trained`, as they were before.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn finish(&self, model: &mut Model, trained: bool) -> Result<()> {
        model.visit_quantizable(&mut |path, weight| {
            let (Some(layer), Some(r), Some(o)) = (self.0.get(path), &*weight.scales, &*weight.biases) else {
                return Ok(());
            };
            let affine =
                if trained { layer.affine(r, o)? } else { [layer.scales.clone(), layer.biases.clone()] };
            let [scales, biases] = affine.map(|x| x.as_dtype(layer.dtype));
            let (scales, biases) = (scales?, biases?);
            kernels::eval([&scales, &biases])?;
            (*weight.scales, *weight.biases) = (Some(scales), Some(biases));
            Ok(())
        })
    }
}

impl LearnedLayer {
    fn new(weight: PackedWeight) -> Result<Self> {
        let (rows, _) = weight.shape()?;
        let (size, dtype) = (weight.format.group_size() as i32, weight.scales.dtype());
        let zeros = Array::zeros::<f32>(weight.scales.shape())?;
        let ones = Array::ones::<f32>(weight.scales.shape())?;
        let codes =
            dequantize(PackedWeight { scales: &ones, biases: Some(&zeros), ..weight }, Dtype::Float32)?;
        let codes = codes.as_dtype(Dtype::Uint8)?.reshape(&[rows as i32, -1, size])?;
        let scales = weight.scales.as_dtype(Dtype::Float32)?;
        let biases = weight.biases.map_or(Ok(zeros), |biases| biases.as_dtype(Dtype::Float32))?;
        kernels::eval([&codes, &scales, &biases])?;
        let middle = ((1_u32 << weight.format.bits()) - 1) as f32 / 2.0;
        Ok(Self { codes, scales, biases, middle, dtype })
    }

    /// Returns scale and bias of each group in float32, rounded to the dtype in which they are stored.
    fn affine(&self, r: &Array, o: &Array) -> nn::Result<[Array; 2]> {
        let scales = self.scales.add(self.scales.multiply(r)?)?;
        let shift = o.subtract(r.multiply(Array::from_f32(self.middle))?)?;
        let biases = self.biases.add(self.scales.multiply(shift)?)?;
        Ok([self.rounded(&scales)?, self.rounded(&biases)?])
    }

    fn rounded(&self, x: &Array) -> nn::Result<Array> {
        let fixed = stop_gradient(x)?;
        let rounded = fixed.as_dtype(self.dtype)?.as_dtype(Dtype::Float32)?;
        x.add(stop_gradient(rounded.subtract(&fixed)?)?)
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::error::Exception;
    use mlx_rs::random;
    use mlx_rs::transforms::grad;

    use super::*;
    use crate::kernels::eval;
    use crate::kernels::linear::{Layer, linears};
    use crate::kernels::quantized::Format;
    use crate::nn::Linear;

    fn normal(shape: &[i32], seed: u64) -> Array {
        random::normal::<f32>(shape, None, None, &random::key(seed).unwrap()).unwrap()
    }

    fn values(x: &Array) -> Vec<f32> {
        let x = x.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap();
        eval([&x]).unwrap();
        x.as_slice::<f32>().to_vec()
    }

    fn layer(bits: usize) -> Linear {
        let mut layer = Linear::new(64, 4, false).unwrap();
        *layer.weight = normal(&[4, 64], 1);
        layer.weight_mut().quantize(Format::affine(bits, 32).unwrap()).unwrap();
        layer
    }

    /// `Σ y²` for some input, where `trained` are `r` and `o`.
    fn loss(layers: &LearnedLayers, layer: &Linear, trained: [&Array; 2]) -> nn::Result<Array> {
        let mut layer = layer.clone();
        (*layer.scales, *layer.biases) = (Some(trained[0].clone()), Some(trained[1].clone()));
        let weight = layers.weight("layer", &layer.weight_mut(), Dtype::Float32)?;
        let weight = weight.ok_or_else(|| Exception::custom("no such layer"))?;
        let plain = [Layer::plain(Weight::Dense(&weight))];
        linears(&normal(&[3, 64], 2), &plain)?.swap_remove(0).square()?.sum(None)
    }

    #[test]
    fn gradients_are_finite_differences() {
        for bits in [2, 3, 4, 8] {
            let layer = layer(bits);
            let Weight::Packed(packed) = layer.matrix() else { panic!("not packed") };
            let layers = LearnedLayers([("layer".to_owned(), LearnedLayer::new(packed).unwrap())].into());
            let trained =
                [normal(&[4, 2], 3), normal(&[4, 2], 4)].map(|x| x.multiply(Array::from_f32(0.1)).unwrap());
            let [r, o] = &trained;
            let of_r = values(&grad(|r: &Array| loss(&layers, &layer, [r, o]))(r).unwrap());
            let of_o = values(&grad(|o: &Array| loss(&layers, &layer, [r, o]))(o).unwrap());
            for (which, found) in [of_r, of_o].into_iter().enumerate() {
                for (index, found) in found.into_iter().enumerate() {
                    let at = |step: f32| {
                        let mut moved = trained.clone();
                        let mut numbers = values(&moved[which]);
                        numbers[index] += step;
                        moved[which] = Array::from_slice(&numbers, &[4, 2]);
                        values(&loss(&layers, &layer, [&moved[0], &moved[1]]).unwrap())[0]
                    };
                    let expected = (at(0.05) - at(-0.05)) / 0.1;
                    // The loss is a square, whose central difference is exact.
                    let tolerance = 2e-3 * expected.abs().max(1.0) + 0.02;
                    assert!(
                        (found - expected).abs() < tolerance,
                        "{bits} {which} {index}: {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_trained_is_nothing_changed() {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let mut layer = layer(3);
            for slot in [&mut *layer.scales, &mut *layer.biases].into_iter().flatten() {
                *slot = slot.as_dtype(dtype).unwrap();
            }
            let Weight::Packed(packed) = layer.matrix() else { panic!("not packed") };
            let learned = LearnedLayer::new(packed).unwrap();
            let zeros = Array::zeros::<f32>(&[4, 2]).unwrap();
            let [scales, biases] = learned.affine(&zeros, &zeros).unwrap();
            assert_eq!(values(&scales), values(packed.scales));
            assert_eq!(values(&biases), values(packed.biases.unwrap()));
        }
    }
}
