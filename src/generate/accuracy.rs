//! Choosing the accuracy of the kernels of quantized models.

use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};

use crate::kernels::quantized::Accuracy;
use crate::kernels::{eval, on_cpu};
use crate::models::Model;
use crate::{Error, Result};

/// Number of tokens of the probe text.
const PROBE_TOKENS: i32 = 48;

/// Maximum mean KL divergence from the exact distributions, in nats. Quantization to 4 bits costs at least ten
/// times as much.
const MAX_DIVERGENCE: f64 = 5e-3;

/// Selects the fastest accuracy whose next-token distributions diverge from those in float32 by less than
/// [`MAX_DIVERGENCE`], measured as KL divergence on a short synthetic text. Returns `None` for models that are not
/// quantized, and on a GPU.
///
/// # Errors
/// Errors from MLX.
pub fn select(model: &Model) -> Result<Option<Accuracy>> {
    let quantized = model.parameters().flatten().keys().any(|name| name.ends_with(".scales"));
    if !quantized || !on_cpu() {
        return Ok(None);
    }
    let exact = log_probabilities(model, Accuracy::F32)?;
    for accuracy in Accuracy::ALL.into_iter().rev() {
        let divergence = kl_divergence(&exact, &log_probabilities(model, accuracy)?)?;
        if accuracy == Accuracy::F32 || divergence < MAX_DIVERGENCE {
            log::info!("{} for packed weights: divergence {divergence:.1e} nats", accuracy.name());
            return Ok(Some(accuracy));
        }
    }
    Ok(Some(Accuracy::F32))
}

/// Log-probabilities after each of the last tokens, `[tokens, vocab]`.
fn log_probabilities(model: &Model, accuracy: Accuracy) -> Result<Array> {
    /// Number of positions compared; the first ones have little context.
    const COMPARED_POSITIONS: i32 = 16;
    let vocab = model.vocab_size();
    // Any tokens do, as long as they are spread over the vocabulary.
    let ids: Vec<i32> =
        (1..=PROBE_TOKENS).map(|i| (i64::from(i) * 7_919 % i64::from(vocab)) as i32).collect();
    let ids = Array::from_slice(&ids, &[1, PROBE_TOKENS]);
    let logits = accuracy.scope(|| {
        let hidden = model.hidden(&ids, None)?.try_index((0, PROBE_TOKENS - COMPARED_POSITIONS.., ..))?;
        Ok::<_, Error>(model.logits(&hidden)?)
    })?;
    let logits = logits.as_dtype(Dtype::Float32)?;
    let probabilities = logits.subtract(logits.logsumexp_axis(-1, true)?)?;
    eval([&probabilities])?;
    Ok(probabilities)
}

fn kl_divergence(exact: &Array, other: &Array) -> Result<f64> {
    let terms = exact.exp()?.multiply(exact.subtract(other)?)?;
    let mean = terms.sum_axis(-1, false)?.mean(None)?;
    eval([&mean])?;
    Ok(f64::from(mean.item_exact::<f32>()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kernels::quantized::Format;
    use crate::models;

    fn model() -> Box<Model> {
        let config = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "vocab_size": 96, "tie_word_embeddings": true
        });
        let mut model = models::create(&config).unwrap();
        models::initialize(model.as_mut(), 0.05, 1).unwrap();
        model
    }

    #[test]
    fn dense_models_have_no_choice_and_quantized_ones_take_what_is_close() {
        let mut model = model();
        assert_eq!(select(model.as_ref()).unwrap(), None);
        let format = Format::affine(4, 32).unwrap();
        model.visit_quantizable(&mut |_, weight| Ok(weight.quantize(format).map(drop)?)).unwrap();
        let exact = log_probabilities(model.as_ref(), Accuracy::F32).unwrap();
        for accuracy in Accuracy::ALL {
            let divergence =
                kl_divergence(&exact, &log_probabilities(model.as_ref(), accuracy).unwrap()).unwrap();
            assert!((-1e-6..MAX_DIVERGENCE).contains(&divergence), "{accuracy:?}: {divergence}");
        }
        assert_eq!(select(model.as_ref()).unwrap(), Some(Accuracy::Int8));
    }

    #[test]
    fn divergence_of_different_distributions_is_positive() {
        let logs = |p: [f32; 2]| Array::from_slice(&p.map(f32::ln), &[1, 2]);
        let divergence = kl_divergence(&logs([0.5, 0.5]), &logs([0.9, 0.1])).unwrap();
        assert!((divergence - 0.510_825_6).abs() < 1e-6, "{divergence}");
    }
}
