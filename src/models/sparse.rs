//! Layers with many zeros, which decoding on a CPU reads faster when they are packed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Model;
use crate::kernels::linear::Weight;
use crate::kernels::on_cpu;
use crate::{Result, kernels};

/// A layer that is packed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SparseLayer {
    /// Fraction of the weights that are not stored.
    pub sparsity: f64,
    /// Bytes of the packed weight, without scales and biases.
    pub nbytes: usize,
    /// Bytes before it was packed.
    pub dense_nbytes: usize,
}

/// Packs the weight of each linear layer of `model` whose zeros are so many that decoding gets faster on this CPU, and
/// says what was done. On other devices all weights stay dense.
///
/// # Errors
/// Errors from MLX.
pub fn pack(model: &mut Model) -> Result<()> {
    if !on_cpu() {
        return Ok(());
    }
    let mut kept = 0;
    model.visit_linears(&mut |_, layer| {
        let weight = layer.matrix();
        let Some(sparsity) = weight.sparsity()? else { return Ok(()) };
        match weight.break_even_sparsity() {
            Some(least) if sparsity >= least => {
                layer.pack_sparse()?;
                // The dense copy is freed before the next one is packed.
                kernels::eval([&*layer.weight])?;
            }
            _ if sparsity >= SPARSE => kept += 1,
            _ => {}
        }
        Ok(())
    })?;
    let packed = layers(model)?;
    if !packed.is_empty() {
        let sum = |bytes: fn(&SparseLayer) -> usize| packed.values().map(bytes).sum::<usize>() as f64 / 1e6;
        log::info!(
            "{} layers with zeros are held sparse, in {:.1} MB instead of {:.1} MB",
            packed.len(),
            sum(|layer| layer.nbytes),
            sum(|layer| layer.dense_nbytes)
        );
    }
    if kept > 0 {
        log::info!("{kept} layers with zeros stay dense, which decodes faster on this processor");
    }
    Ok(())
}

/// Sparsity from which a layer is reported if it stays dense.
const SPARSE: f64 = 0.48;

/// Unpacks all layers.
///
/// # Errors
/// None of its own.
pub fn unpack(model: &mut Model) -> Result<()> {
    model.visit_linears(&mut |_, layer| {
        layer.unpack_sparse();
        Ok(())
    })
}

/// Packed layers by their key path.
///
/// # Errors
/// None of its own.
pub fn layers(model: &mut Model) -> Result<BTreeMap<String, SparseLayer>> {
    let mut layers = BTreeMap::new();
    model.visit_weights(&mut |path, weight| {
        if let Weight::Sparse(matrix) = weight {
            let sparsity = matrix.sparsity();
            let (nbytes, dense_nbytes) = (matrix.nbytes(), matrix.dense_nbytes());
            layers.insert(path.to_owned(), SparseLayer { sparsity, nbytes, dense_nbytes });
        }
        Ok(())
    })?;
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use mlx_rs::{Array, Dtype};
    use serde_json::json;

    use super::*;
    use crate::kernels::quantized::Format;
    use crate::models;
    use crate::models::LanguageModel;
    use crate::nn::fingerprint::fingerprint;

    fn model() -> Box<Model> {
        let config = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "vocab_size": 96, "tie_word_embeddings": true
        });
        let mut model = models::create(&config).unwrap();
        models::initialize(model.as_mut(), 0.05, 1).unwrap();
        model
            .visit_linears(&mut |path, layer| {
                if !path.contains("k_proj") {
                    let positive = layer.weight.gt(Array::from_f32(0.0))?.as_dtype(Dtype::Float32)?;
                    let third = layer.weight.lt(Array::from_f32(0.02))?.as_dtype(Dtype::Float32)?;
                    // The sum has no negative zeros, whose signs packing drops.
                    let zero = Array::from_f32(0.0);
                    *layer.weight = layer.weight.multiply(positive)?.multiply(third)?.add(zero)?;
                }
                Ok(())
            })
            .unwrap();
        model
    }

    fn logits(model: &dyn LanguageModel, rows: i32) -> Vec<f32> {
        let ids: Vec<i32> = (0..rows).collect();
        let logits = model.forward(&Array::from_slice(&ids, &[1, rows]), None).unwrap();
        kernels::eval([&logits]).unwrap();
        logits.as_slice::<f32>().to_vec()
    }

    #[test]
    fn packed_models_compute_the_same_and_come_back() {
        for bits in [None, Some(8)] {
            let mut model = model();
            if let Some(bits) = bits {
                let format = Format::affine(bits, 64).unwrap();
                model.visit_quantizable(&mut |_, weight| Ok(weight.quantize(format).map(drop)?)).unwrap();
            }
            let before = (model.count_parameters().unwrap(), fingerprint(model.as_mut(), "").unwrap());
            let dense = [1, 3, 40].map(|rows| logits(model.as_ref(), rows));
            // Whatever the processor is better at.
            model
                .visit_linears(&mut |path, layer| {
                    if !path.contains("k_proj") {
                        layer.pack_sparse()?;
                    }
                    Ok(())
                })
                .unwrap();
            let packed = layers(model.as_mut()).unwrap();
            assert_eq!(packed.len(), 12);
            for layer in packed.values() {
                assert!(layer.sparsity > 0.5 && layer.nbytes < layer.dense_nbytes, "{layer:?}");
            }
            assert_eq!(model.count_parameters().unwrap(), before.0);
            for (rows, dense) in [1, 3, 40].into_iter().zip(&dense) {
                for (ours, dense) in logits(model.as_ref(), rows).iter().zip(dense) {
                    assert!((ours - dense).abs() < 1e-4, "{bits:?} {rows}: {ours} {dense}");
                }
            }
            unpack(model.as_mut()).unwrap();
            assert!(layers(model.as_mut()).unwrap().is_empty());
            assert_eq!(fingerprint(model.as_mut(), "").unwrap(), before.1);
        }
    }

    #[test]
    fn only_layers_with_enough_zeros_are_packed() {
        let mut model = model();
        pack(model.as_mut()).unwrap();
        let packed = layers(model.as_mut()).unwrap();
        assert!(packed.keys().all(|path| !path.contains("k_proj")), "{packed:?}");
    }
}
