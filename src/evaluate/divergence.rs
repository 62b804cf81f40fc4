//! How far the predictions of a model are from those of another one.

use std::ops::ControlFlow;

use mlx_rs::ops::indexing::TryIndexOp as _;
use mlx_rs::{Array, Dtype};
use serde::Serialize;

use crate::kernels::eval;
use crate::kernels::quantized::Accuracy;
use crate::models::{Model, check_tokens};
use crate::progress::Observer;
use crate::{Error, Result};

/// Maximum number of logits computed at once, 64 MiB in float32.
const MAX_LOGITS: i32 = 1 << 24;

/// Divergence of next-token distributions from those of a reference, over all positions of some sequences.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Divergence {
    /// Mean Kullback–Leibler divergence from the reference to the model, in nats.
    pub mean_kl: f64,
    /// Its 99th percentile over positions.
    pub p99_kl: f64,
    /// Fraction of positions at which both have the same most likely token.
    pub top_agreement: f64,
    /// Perplexity of the model.
    pub perplexity: f64,
    /// Perplexity of the reference.
    pub reference_perplexity: f64,
    /// Number of positions.
    pub positions: usize,
}

/// A model, and how accurately products with its quantized weights are computed on the CPU.
#[derive(Clone, Copy)]
pub struct Predictor<'a> {
    /// The model.
    pub model: &'a Model,
    /// `None` for that of its activations.
    pub accuracy: Option<Accuracy>,
}

impl<'a> From<&'a Model> for Predictor<'a> {
    fn from(model: &'a Model) -> Self {
        Self { model, accuracy: None }
    }
}

impl Predictor<'_> {
    fn vocab_size(&self) -> i32 {
        self.model.vocab_size()
    }

    /// `[1, time, hidden]`
    fn hidden(&self, inputs: &Array) -> Result<Array> {
        Ok(Accuracy::optional_scope(self.accuracy, || self.model.hidden(inputs, None))?)
    }

    /// Log-probabilities, `[1, time, vocab]`.
    fn log_probabilities(&self, hidden: &Array) -> Result<Array> {
        let logits = Accuracy::optional_scope(self.accuracy, || self.model.logits(hidden))?;
        let logits = logits.as_dtype(Dtype::Float32)?;
        Ok(logits.subtract(logits.logsumexp_axis(-1, true)?)?)
    }
}

/// Compares `model` with `reference` on `sequences` of token ids. Both may be the same model.
///
/// # Errors
/// Models of different vocabularies; sequences without a position to predict; [`Error::Interrupted`].
pub fn divergence(
    model: Predictor,
    reference: Predictor,
    sequences: &[Vec<u32>],
    observer: &mut dyn Observer,
) -> Result<Divergence> {
    let vocab = reference.vocab_size();
    if model.vocab_size() != vocab {
        return Err(Error::Config(format!(
            "the vocabularies have {} and {vocab} tokens: the models cannot be compared",
            model.vocab_size()
        )));
    }
    check_tokens(sequences.iter().flatten(), vocab)?;
    let (mut kl, mut agreed) = (Vec::new(), 0.0);
    let mut losses = [0.0; 2];
    let chunk = (MAX_LOGITS / vocab).max(1);
    for ids in sequences.iter().filter(|ids| ids.len() > 1) {
        let (inputs, targets) = (&ids[..ids.len() - 1], &ids[1..]);
        let inputs = Array::from_slice(inputs, &[1, inputs.len() as i32]);
        let targets = Array::from_slice(targets, &[targets.len() as i32, 1]);
        let (ours, theirs) = (model.hidden(&inputs)?, reference.hidden(&inputs)?);
        eval([&ours, &theirs])?;
        for start in (0..inputs.dim(1)).step_by(chunk as usize) {
            let positions = start..(start + chunk).min(inputs.dim(1));
            let part = |hidden: &Array| hidden.try_index((0, positions.clone(), ..));
            let p = reference.log_probabilities(&part(&theirs)?)?;
            let q = model.log_probabilities(&part(&ours)?)?;
            let terms = p.exp()?.multiply(p.subtract(&q)?)?.sum_axis(-1, false)?;
            let argmax = |x: &Array| mlx_rs::ops::indexing::argmax_axis(x, -1, false);
            let same = argmax(&p)?.eq(argmax(&q)?)?.as_dtype(Dtype::Float32)?.sum(None)?;
            let targets = targets.try_index(positions.clone())?;
            let loss = |logs: &Array| logs.take_along_axis(&targets, -1)?.sum(None)?.negative();
            let (loss_p, loss_q) = (loss(&p)?, loss(&q)?);
            eval([&terms, &same, &loss_p, &loss_q])?;
            kl.extend(terms.as_slice::<f32>().iter().map(|&kl| f64::from(kl.max(0.0))));
            agreed += f64::from(same.item_exact::<f32>());
            losses[0] += f64::from(loss_q.item_exact::<f32>());
            losses[1] += f64::from(loss_p.item_exact::<f32>());
            if observer.poll() == ControlFlow::Break(()) {
                return Err(Error::Interrupted);
            }
        }
    }
    if kl.is_empty() {
        return Err(Error::Dataset(
            "there is no position to predict: sequences need at least two tokens".into(),
        ));
    }
    let positions = kl.len();
    let count = positions as f64;
    let mean_kl = kl.iter().sum::<f64>() / count;
    kl.sort_by(f64::total_cmp);
    let p99_kl = kl[((count * 0.99).ceil() as usize).clamp(1, positions) - 1];
    let [perplexity, reference_perplexity] = losses.map(|sum| (sum / count).exp());
    Ok(Divergence {
        mean_kl,
        p99_kl,
        top_agreement: agreed / count,
        perplexity,
        reference_perplexity,
        positions,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kernels::quantized::Format;
    use crate::models;
    use crate::progress::Silent;

    fn model(vocab: i32) -> Box<Model> {
        let config = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "vocab_size": vocab, "tie_word_embeddings": true
        });
        let mut model = models::create(&config).unwrap();
        models::initialize(model.as_mut(), 0.2, 1).unwrap();
        model
    }

    #[test]
    fn values_are_those_of_the_definition() {
        let (reference, mut model) = (self::model(48), self::model(48));
        let format = Format::affine(2, 32).unwrap();
        model.visit_quantizable(&mut |_, weight| Ok(weight.quantize(format).map(drop)?)).unwrap();
        let sequences = [vec![1, 7, 40, 3, 9], vec![5, 5, 6]];
        let found =
            divergence(model.as_ref().into(), reference.as_ref().into(), &sequences, &mut Silent).unwrap();
        let logs = |model: &Model, ids: &[u32]| -> Vec<Vec<f64>> {
            let logits = model.forward(&Array::from_slice(ids, &[1, ids.len() as i32]), None).unwrap();
            eval([&logits]).unwrap();
            let row = |row: &[f32]| {
                let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                row.iter().map(|&x| f64::from(x) - sum.ln()).collect()
            };
            logits.as_slice::<f32>().chunks(48).map(row).collect()
        };
        let (mut kl, mut loss, mut same) = (Vec::new(), 0.0, 0);
        for ids in &sequences {
            let (p, q) = (logs(reference.as_ref(), ids), logs(model.as_ref(), ids));
            for (i, &target) in ids[1..].iter().enumerate() {
                kl.push(p[i].iter().zip(&q[i]).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
                loss -= q[i][target as usize];
                let top = |x: &[f64]| (0..48).max_by(|&a, &b| x[a].total_cmp(&x[b]));
                same += i32::from(top(&p[i]) == top(&q[i]));
            }
        }
        let mean = kl.iter().sum::<f64>() / 6.0;
        assert_eq!(found.positions, 6);
        assert!((found.mean_kl - mean).abs() < 1e-4 * mean, "{found:?}, {mean}");
        assert!((found.p99_kl - kl.iter().copied().fold(0.0, f64::max)).abs() < 1e-4);
        assert!((found.perplexity.ln() - loss / 6.0).abs() < 1e-4);
        assert!((found.top_agreement - f64::from(same) / 6.0).abs() < 1e-9);
        let none = divergence(reference.as_ref().into(), reference.as_ref().into(), &sequences, &mut Silent)
            .unwrap();
        assert!(none.mean_kl < 1e-6 && none.top_agreement > 0.999);
    }

    #[test]
    fn each_side_has_its_accuracy() {
        let mut model = self::model(48);
        let format = Format::affine(8, 64).unwrap();
        model.visit_quantizable(&mut |_, weight| Ok(weight.quantize(format).map(drop)?)).unwrap();
        let ids = [(0..40).map(|i| i * 7 % 48).collect()];
        let kl = |ours, theirs| {
            let side = |accuracy| Predictor { model: model.as_ref(), accuracy: Some(accuracy) };
            divergence(side(ours), side(theirs), &ids, &mut Silent).unwrap().mean_kl
        };
        let exact = kl(Accuracy::F32, Accuracy::F32);
        assert!((kl(Accuracy::Int8, Accuracy::Int8) - exact).abs() < 1e-9, "{exact}");
        for (ours, theirs) in [(Accuracy::Int8, Accuracy::F32), (Accuracy::F32, Accuracy::Int8)] {
            let found = kl(ours, theirs);
            // On processors without integer kernels, both are exact.
            assert!((exact..0.01).contains(&found), "{found}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_named() {
        let (small, large) = (model(48), model(64));
        let message = |sequences: &[Vec<u32>], reference: &Model| {
            divergence(small.as_ref().into(), reference.into(), sequences, &mut Silent)
                .unwrap_err()
                .to_string()
        };
        assert!(message(&[vec![1, 2]], large.as_ref()).contains("48 and 64"));
        assert!(message(&[vec![1]], small.as_ref()).contains("at least two tokens"));
        assert!(message(&[vec![1, 99]], small.as_ref()).contains("token 99"));
    }
}
