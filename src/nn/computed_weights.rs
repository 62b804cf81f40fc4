//! Weights that a graph computes from parameters, in place of those that a model holds.

use std::collections::BTreeMap;

use mlx_rs::Array;
use mlx_rs::error::Exception;

use super::overrides::Original;
use super::quantized::WeightMut;
use super::{Linear, Network, Result};

/// Calls `work` while the weights of `model` are the dense ones that `compute` returns, given key path and weight;
/// `None` leaves a weight as it is. Afterwards, all weights are the former ones.
///
/// # Errors
/// Errors of `compute` and `work`.
pub fn with_computed_weights<M: Network + ?Sized, T>(
    model: &mut M,
    compute: &mut dyn FnMut(&str, &WeightMut) -> Result<Option<Array>>,
    work: impl FnOnce(&mut M) -> Result<T>,
) -> Result<T> {
    let mut originals: BTreeMap<String, Original> = BTreeMap::new();
    let replaced = model.visit_quantizable(&mut |path, weight| {
        let Some(computed) = compute(path, &weight)? else { return Ok(()) };
        let original = Original {
            value: std::mem::replace(weight.weight, computed),
            scales: weight.scales.take(),
            biases: weight.biases.take(),
            format: weight.format.take(),
        };
        originals.insert(path.to_owned(), original);
        Ok(())
    });
    let outcome = replaced.map_err(|error| exception(&error)).and_then(|()| work(model));
    let restore = &mut |path: &str, weight: WeightMut| {
        if let Some(Original { value, scales, biases, format }) = originals.remove(path) {
            (*weight.weight, *weight.scales, *weight.biases) = (value, scales, biases);
            *weight.format = format;
        }
        Ok(())
    };
    model.visit_quantizable(restore).map_err(|error| exception(&error))?;
    outcome
}

/// Calls `work` while the low-rank updates of `model` are part of its weights. Afterwards, they are updates again.
///
/// # Errors
/// A layer whose update [cannot be merged](Linear::merged); errors of `work`.
pub fn with_merged_updates<M: Network + ?Sized, T>(
    model: &mut M,
    work: impl FnOnce(&mut M) -> Result<T>,
) -> Result<T> {
    let mut originals: BTreeMap<String, Linear> = BTreeMap::new();
    let merged = model.visit_linears(&mut |path, layer| {
        if let Some(merged) = layer.merged()? {
            originals.insert(path.to_owned(), layer.clone());
            layer.unpack_sparse();
            *layer.weight = merged;
            layer.remove_update();
        }
        Ok(())
    });
    let outcome = merged.map_err(|error| exception(&error)).and_then(|()| work(model));
    let restore = &mut |path: &str, layer: &mut Linear| {
        if let Some(original) = originals.remove(path) {
            *layer = original;
        }
        Ok(())
    };
    model.visit_linears(restore).map_err(|error| exception(&error))?;
    outcome
}

fn exception(error: &crate::Error) -> Exception {
    Exception::custom(error.to_string())
}

#[cfg(test)]
mod tests {
    use mlx_macros::ModuleParameters;
    use mlx_rs::Dtype;

    use super::*;
    use crate::kernels::eval;
    use crate::kernels::quantized::Format;
    use crate::nn::network::GradientCheckpointing;

    #[derive(Debug, ModuleParameters)]
    struct Single {
        #[param]
        layer: Linear,
    }

    impl Network for Single {
        fn visit_linears(
            &mut self,
            visit: &mut dyn FnMut(&str, &mut Linear) -> crate::Result<()>,
        ) -> crate::Result<()> {
            visit("layer", &mut self.layer)
        }

        fn set_gradient_checkpointing(&mut self, _: Option<GradientCheckpointing>) {}

        fn dtype(&self) -> Dtype {
            Dtype::Float32
        }
    }

    /// `y = x`, and twice that with the update.
    fn network() -> Single {
        let mut layer = Linear::new(32, 32, false).unwrap();
        *layer.weight = Array::eye::<f32>(32, None, None).unwrap();
        (*layer.lora_a, *layer.lora_b) = (Some((*layer.weight).clone()), Some((*layer.weight).clone()));
        layer.low_rank.scale = 1.0;
        Single { layer }
    }

    fn output(network: &Single) -> f32 {
        let y = network.layer.forward(&Array::ones::<f32>(&[1, 32]).unwrap()).unwrap();
        eval([&y]).unwrap();
        y.as_slice::<f32>()[0]
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "small whole numbers are exact")]
    fn weights_are_the_former_ones_afterwards_also_after_errors() {
        let mut network = network();
        let during = with_merged_updates(&mut network, |network| {
            assert!(network.layer.lora_a.is_none());
            let mut double = |_: &str, weight: &WeightMut| weight.weight.add(&*weight.weight).map(Some);
            with_computed_weights(network, &mut double, |network| Ok(output(network)))
        });
        assert_eq!((during.unwrap(), output(&network)), (4.0, 2.0));
        let fails = with_merged_updates(&mut network, |_| Err::<(), _>(Exception::custom("work")));
        assert!(fails.unwrap_err().what().contains("work"));
        let mut fail = |_: &str, _: &WeightMut| Err(Exception::custom("compute"));
        let fails = with_computed_weights(&mut network, &mut fail, |_| Ok(()));
        assert!(fails.unwrap_err().what().contains("compute"));
        assert_eq!(output(&network), 2.0);
        network.layer.weight_mut().quantize(Format::affine(4, 32).unwrap()).unwrap();
        let fails = with_merged_updates(&mut network, |_| Ok(()));
        assert!(fails.unwrap_err().what().contains("quantized"));
    }
}
