//! Divergence of the predictions from those of the original model, as a [`Task`].

use mlx_rs::ops::indexing::{Ellipsis, IndexOp as _};
use mlx_rs::ops::{concatenate, maximum};
use mlx_rs::{Array, Dtype};

use super::data::SequenceBatch;
use super::scales::LearnedLayers;
use super::teacher::{Predictions, Teacher};
use crate::Result;
use crate::models::Model;
use crate::nn;
use crate::nn::computed_weights::with_computed_weights;
use crate::nn::network::GradientCheckpointing;
use crate::train::task::inputs::Inputs;
use crate::train::task::{ForwardOptions, Loss, Task, Totals};

/// Probabilities of all other tokens together below this are not told apart.
const MIN_REST: f32 = 1e-6;

/// Trains scales and biases: `KL(p ‖ q)` at a temperature in the mean over all positions, where `p` are the predictions of
/// the original model. Tokens that are not among its most likely ones count as one.
pub(super) struct DistillationTask<'a> {
    pub layers: &'a LearnedLayers,
    pub sequences: &'a [Vec<u32>],
    pub teacher: &'a Teacher,
    pub temperature: f32,
    /// Gradient checkpointing of the weights that are computed from scales and biases.
    pub checkpointing: Option<GradientCheckpointing>,
}

impl Task for DistillationTask<'_> {
    type Model = Model;
    type Batch = SequenceBatch;

    fn totals(&self, batch: &SequenceBatch) -> Totals {
        Totals([(batch.sequences.len() * batch.length) as f64, 0.0])
    }

    /// | name | shape | |
    /// |---|---|---|
    /// | `ids` | `[rows, time]` | tokens |
    /// | `log_probs`, `tokens` | `[rows, time, top_k]` | of the original model |
    /// | `per_token` | scalar | factor of token losses |
    fn inputs(
        &self,
        _model: &Model,
        batch: &SequenceBatch,
        totals: Totals,
        options: &ForwardOptions,
    ) -> Result<Inputs> {
        let &SequenceBatch { ref sequences, length } = batch;
        let ids: Vec<u32> =
            sequences.iter().flat_map(|&index| &self.sequences[index][..length]).copied().collect();
        let (mut log_probs, mut tokens) = (Vec::new(), Vec::new());
        for &index in sequences {
            let predictions: Predictions = self.teacher.read(index)?;
            for (all, own) in [(&mut log_probs, predictions.log_probs), (&mut tokens, predictions.tokens)] {
                all.push(own.index((..length as i32, Ellipsis)).expand_dims(0)?);
            }
        }
        let mut inputs = Inputs::new(options.loss_scale);
        inputs.insert("ids", Array::from_slice(&ids, &[sequences.len() as i32, length as i32]));
        inputs.insert("log_probs", concatenate(&log_probs, 0)?);
        inputs.insert("tokens", concatenate(&tokens, 0)?);
        let Totals([positions, _]) = totals;
        let factor = options.loss_scale.unwrap_or(1.0) / positions as f32;
        inputs.insert("per_token", Array::from_f32(factor));
        Ok(inputs)
    }

    fn loss(&self, model: &mut Model, inputs: &Inputs, gradient: bool) -> nn::Result<Loss> {
        let dtype = model.dtype();
        let mut weight =
            |path: &str, trained: &nn::quantized::WeightMut| self.layers.weight(path, trained, dtype);
        with_computed_weights(model, &mut weight, |model| {
            model.set_gradient_checkpointing(self.checkpointing.clone().filter(|_| gradient));
            let logits = model.forward(inputs.get("ids")?, None);
            model.set_gradient_checkpointing(None);
            let logits = logits?.as_dtype(Dtype::Float32)?;
            let logits = logits.multiply(Array::from_f32(self.temperature.recip()))?;
            let divergence = divergence(&logits, inputs.get("log_probs")?, inputs.get("tokens")?)?;
            Ok(Loss { value: divergence.sum(None)?.multiply(inputs.get("per_token")?)?, rewards: None })
        })
    }
}

/// `KL(p ‖ q)` of each position, `[...]`: `logits` are those of `q`, `[..., vocab]`; `log_probs` those of `p` for `tokens`,
/// `[..., top_k]`.
fn divergence(logits: &Array, log_probs: &Array, tokens: &Array) -> nn::Result<Array> {
    let total = logits.logsumexp_axis(-1, true)?;
    let found = logits.take_along_axis(tokens, -1)?.subtract(total)?;
    let probs = log_probs.exp()?;
    let listed = probs.multiply(log_probs.subtract(&found)?)?.sum_axis(-1, false)?;
    let rest = |probs: &Array| -> nn::Result<Array> {
        let others = Array::from_f32(1.0).subtract(probs.sum_axis(-1, false)?)?;
        maximum(others, Array::from_f32(MIN_REST))
    };
    let (p, q) = (rest(&probs)?, rest(&found.exp()?)?);
    listed.add(p.multiply(p.log()?.subtract(q.log()?)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    #[test]
    fn divergence_is_that_of_the_definition_with_one_rest() {
        let log_softmax = |x: &[f64]| {
            let total = x.iter().map(|x| x.exp()).sum::<f64>().ln();
            x.iter().map(|x| x - total).collect::<Vec<_>>()
        };
        let (teacher, student) = ([2.0, 0.5, -1.0, 0.1], [1.0, 1.5, -0.5, 0.0]);
        let (p, q) = (log_softmax(&teacher), log_softmax(&student));
        let logits = Array::from_slice(&student.map(|x| x as f32), &[1, 4]);
        for chosen in [vec![0_u32, 1, 2, 3], vec![1, 0]] {
            let listed: Vec<f32> = chosen.iter().map(|&i| p[i as usize] as f32).collect();
            let shape = [1, chosen.len() as i32];
            let found =
                divergence(&logits, &Array::from_slice(&listed, &shape), &Array::from_slice(&chosen, &shape))
                    .unwrap();
            eval([&found]).unwrap();
            let of = |i: u32| p[i as usize].exp() * (p[i as usize] - q[i as usize]);
            let rest = |x: &[f64]| 1.0 - chosen.iter().map(|&i| x[i as usize].exp()).sum::<f64>();
            let (rest_p, rest_q) = (rest(&p).max(1e-6), rest(&q).max(1e-6));
            let expected = chosen.iter().map(|&i| of(i)).sum::<f64>() + rest_p * (rest_p / rest_q).ln();
            assert!((f64::from(found.as_slice::<f32>()[0]) - expected).abs() < 1e-5, "{expected}");
        }
    }
}
