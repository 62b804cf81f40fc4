//! Log-probabilities of tokens given the preceding ones.
//!
//! Only the requested positions pass through the head, in chunks of bounded size, so that the logits of a whole
//! batch are never in memory.

use std::ops::ControlFlow;

use mlx_rs::{Array, Dtype};

use crate::data::{Sample, collate};
use crate::kernels::eval;
use crate::models::Model;
use crate::progress::Observer;
use crate::{Error, Result, models};

/// Maximum number of logits computed at once, 64 MiB in float32.
const MAX_LOGITS: i32 = 1 << 24;

/// Score of a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Log-probability of the token given the preceding ones.
    pub logprob: f32,
    /// Whether the token is the most likely one, the prediction of greedy decoding.
    pub is_greedy: bool,
}

/// A row of token ids of which those from `start` on are scored; `start` is at least 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The whole row.
    pub ids: Vec<u32>,
    /// Index of the first token to score.
    pub start: usize,
}

/// Scores the tokens of each span from its start on.
///
/// # Errors
/// A span without a token before its start; a token outside the vocabulary; errors from MLX;
/// [`Error::Interrupted`] if the observer stops the work.
pub fn score_spans(
    model: &Model,
    spans: &[Span],
    batch_size: usize,
    observer: &mut dyn Observer,
) -> Result<Vec<Vec<TokenScore>>> {
    let mut samples = Vec::with_capacity(spans.len());
    for (index, Span { ids, start }) in spans.iter().enumerate() {
        if *start == 0 || *start >= ids.len() {
            return Err(Error::Config(format!(
                "row {index} has {} tokens, of which those from {start} on are to be scored; the start must \
                 be between 1 and the last token",
                ids.len()
            )));
        }
        samples.push(Sample::new(ids.clone(), |token| token >= *start));
    }
    score_samples(model, &samples, batch_size, observer)
}

/// Scores the target tokens of each sample, in order. Samples are batched by length to reduce padding,
/// `batch_size` at a time.
///
/// # Errors
/// A token outside the vocabulary; errors from MLX; [`Error::Interrupted`].
pub(super) fn score_samples(
    model: &Model,
    samples: &[Sample],
    batch_size: usize,
    observer: &mut dyn Observer,
) -> Result<Vec<Vec<TokenScore>>> {
    models::check_tokens(samples.iter().flat_map(|sample| &sample.ids), model.vocab_size())?;
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(samples[row].len()));
    let mut scores = vec![Vec::new(); samples.len()];
    for rows in order.chunks(batch_size.max(1)) {
        if observer.poll() == ControlFlow::Break(()) {
            return Err(Error::Interrupted);
        }
        let batch: Vec<&Sample> = rows.iter().map(|&row| &samples[row]).collect();
        for (&row, scored) in rows.iter().zip(score_batch(model, &batch)?) {
            scores[row] = scored;
        }
    }
    Ok(scores)
}

fn score_batch(model: &Model, samples: &[&Sample]) -> Result<Vec<Vec<TokenScore>>> {
    let batch = collate(samples, usize::MAX, 0);
    let positions: Vec<usize> =
        (0..batch.weights.len()).filter(|&position| batch.weights[position] > 0.0).collect();
    let mut scores = vec![Vec::new(); samples.len()];
    if positions.is_empty() {
        return Ok(scores);
    }
    let hidden =
        model.hidden(&Array::from_slice(&batch.ids, &[batch.rows as i32, batch.time as i32]), None)?;
    let hidden = hidden.reshape(&[-1, hidden.dim(-1)])?;
    let at_once = (MAX_LOGITS / model.vocab_size()).max(1) as usize;
    for positions in positions.chunks(at_once) {
        let indices: Vec<i32> = positions.iter().map(|&position| position as i32).collect();
        let targets: Vec<i32> = positions.iter().map(|&position| batch.targets[position]).collect();
        let picked = hidden.take_axis(Array::from_slice(&indices, &[indices.len() as i32]), 0)?;
        let (logprobs, is_greedy) = score_positions(model, &picked, &targets)?;
        for ((&position, &logprob), &is_greedy) in positions.iter().zip(&logprobs).zip(&is_greedy) {
            scores[position / batch.time].push(TokenScore { logprob, is_greedy });
        }
    }
    Ok(scores)
}

/// Scores one target per position. `hidden` is `[positions, hidden]`.
fn score_positions(model: &Model, hidden: &Array, targets: &[i32]) -> Result<(Vec<f32>, Vec<bool>)> {
    let logits = model.logits(hidden)?.as_dtype(Dtype::Float32)?;
    let targets = Array::from_slice(targets, &[targets.len() as i32, 1]);
    let chosen = logits.take_along_axis(&targets, -1)?.squeeze_axes(&[-1])?;
    let logprobs = chosen.subtract(logits.logsumexp_axis(-1, false)?)?;
    let is_greedy = chosen.ge(logits.max_axis(-1, false)?)?;
    eval([&logprobs, &is_greedy])?;
    Ok((logprobs.as_slice::<f32>().to_vec(), is_greedy.as_slice::<bool>().to_vec()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::progress::Silent;

    fn model() -> Box<Model> {
        let config = json!({
            "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "vocab_size": 40, "tie_word_embeddings": true
        });
        let mut model = models::create(&config).unwrap();
        models::initialize(model.as_mut(), 0.3, 1).unwrap();
        model
    }

    /// Log-probabilities in f64 from all logits of one row, without padding.
    fn expected(model: &Model, span: &Span) -> Vec<(f64, bool)> {
        let ids: Vec<i32> = span.ids.iter().map(|&id| id as i32).collect();
        let logits = model.forward(&Array::from_slice(&ids, &[1, ids.len() as i32]), None).unwrap();
        eval([&logits]).unwrap();
        let rows: Vec<Vec<f64>> = logits
            .as_slice::<f32>()
            .chunks(40)
            .map(|row| row.iter().map(|&x| f64::from(x)).collect())
            .collect();
        (span.start..ids.len())
            .map(|position| {
                let row = &rows[position - 1];
                let total = row.iter().map(|x| x.exp()).sum::<f64>().ln();
                let top = row.iter().copied().fold(f64::MIN, f64::max);
                let chosen = row[ids[position] as usize];
                (chosen - total, chosen >= top)
            })
            .collect()
    }

    #[test]
    fn scores_are_those_of_all_logits_whatever_stands_beside() {
        let model = model();
        let row = |len: u32, start| Span { ids: (0..len).map(|i| (i * 7 + len) % 40).collect(), start };
        let spans = [row(3, 1), row(17, 9), row(2, 1), row(8, 7), row(11, 1)];
        for batch_size in [1, 2, 64] {
            let scores = score_spans(model.as_ref(), &spans, batch_size, &mut Silent).unwrap();
            for (span, scores) in spans.iter().zip(&scores) {
                let expected = expected(model.as_ref(), span);
                assert_eq!(scores.len(), expected.len());
                for (score, (logprob, is_greedy)) in scores.iter().zip(expected) {
                    assert!((f64::from(score.logprob) - logprob).abs() < 1e-4, "{score:?}, {logprob}");
                    assert_eq!(score.is_greedy, is_greedy);
                }
            }
        }
    }

    #[test]
    fn the_likeliest_token_is_recognised() {
        let model = model();
        let ids = Array::from_slice(&[5, 6, 7], &[1, 3]);
        let logits = model.forward(&ids, None).unwrap();
        eval([&logits]).unwrap();
        let last = &logits.as_slice::<f32>()[80..];
        let top = (0..40).max_by(|&a, &b| last[a as usize].total_cmp(&last[b as usize])).unwrap();
        let spans = [0, 1].map(|other| Span { ids: vec![5, 6, 7, (top + other) % 40], start: 3 });
        let scores = score_spans(model.as_ref(), &spans, 2, &mut Silent).unwrap();
        assert_eq!(scores.iter().map(|row| row[0].is_greedy).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn impossible_spans_are_named() {
        let model = model();
        let refused = |ids: &[u32], start| {
            let spans = [Span { ids: vec![1, 2], start: 1 }, Span { ids: ids.to_vec(), start }];
            score_spans(model.as_ref(), &spans, 1, &mut Silent).unwrap_err().to_string()
        };
        for (ids, start) in [(&[1, 2][..], 0), (&[1, 2], 2), (&[], 1)] {
            assert!(refused(ids, start).starts_with("row 1 has "), "{}", refused(ids, start));
        }
        assert!(refused(&[1, 40], 1).contains("token 40"));
    }
}
