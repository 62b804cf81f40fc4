//! Embeddings of rows: means of hidden states.

use std::iter::repeat;
use std::ops::ControlFlow;

use mlx_rs::{Array, Dtype};

use crate::data::Embeddings;
use crate::models::{Model, check_tokens};
use crate::progress::{Event, Observer};
use crate::{Error, Result, kernels};

/// Tokens of a row that count; what a row is about shows at its beginning.
const MAX_TOKENS: usize = 128;
/// Tokens that pass through the model at once.
const TOKENS_AT_ONCE: usize = 2048;

/// The mean of the hidden states of each of `rows` of token ids, over its first 128 tokens.
///
/// # Errors
/// Rows without tokens, or with some that the model does not have; hidden states that are not finite;
/// [`Error::Interrupted`].
pub fn embed_rows(model: &Model, rows: &[&[u32]], observer: &mut dyn Observer) -> Result<Embeddings> {
    check_tokens(rows.iter().copied().flatten(), model.vocab_size())?;
    if let Some(row) = rows.iter().position(|row| row.is_empty()) {
        return Err(Error::Dataset(format!("row {} has no tokens", row + 1)));
    }
    let cut = |row: usize| &rows[row][..rows[row].len().min(MAX_TOKENS)];
    // Rows of one length need no padding.
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&row| cut(row).len());
    let mut means: Vec<Vec<f32>> = vec![Vec::new(); rows.len()];
    let mut done = 0;
    while done < order.len() {
        let fits = |&end: &usize| (end - done) * cut(order[end - 1]).len() <= TOKENS_AT_ONCE;
        let end = (done + 1..=order.len()).take_while(fits).last().unwrap_or(done + 1);
        let batch = &order[done..end];
        let batch_rows: Vec<&[u32]> = batch.iter().map(|&row| cut(row)).collect();
        for (&row, mean) in batch.iter().zip(means_of(model, &batch_rows)?) {
            means[row] = mean;
        }
        done = end;
        let event =
            Event::Progress { stage: "embed rows".to_owned(), done: done as u64, total: order.len() as u64 };
        if observer.on(&event) == ControlFlow::Break(()) {
            return Err(Error::Interrupted);
        }
    }
    let dim = means.first().map_or(1, Vec::len);
    Embeddings::new(means.concat(), dim)
}

/// Means of the hidden states of `rows`, `[hidden]` each.
fn means_of<'r>(model: &Model, rows: &[&'r [u32]]) -> Result<Vec<Vec<f32>>> {
    let time = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let shape = [rows.len() as i32, time as i32];
    // What is padding comes last, so that no token sees it.
    let padded = |row: &&'r [u32]| row.iter().copied().chain(repeat(0)).take(time);
    let ids: Vec<u32> = rows.iter().flat_map(padded).collect();
    let weight = |row: &&[u32]| {
        let (length, share) = (row.len(), (row.len() as f32).recip());
        (0..time).map(move |place| if place < length { share } else { 0.0 })
    };
    let weights: Vec<f32> = rows.iter().flat_map(weight).collect();
    let hidden = model.hidden(&Array::from_slice(&ids, &shape), None)?.as_dtype(Dtype::Float32)?;
    let weights = Array::from_slice(&weights, &[shape[0], 1, shape[1]]);
    let means = weights.matmul(&hidden)?.contiguous()?;
    kernels::eval([&means])?;
    let dim = means.dim(-1) as usize;
    Ok(means.as_slice::<f32>().chunks_exact(dim).map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::models;
    use crate::progress::Silent;

    fn model() -> Box<Model> {
        let config = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "vocab_size": 48, "tie_word_embeddings": true
        });
        let mut model = models::create(&config).unwrap();
        models::initialize(model.as_mut(), 0.2, 1).unwrap();
        model
    }

    #[test]
    fn means_are_those_of_each_row_alone() {
        let model = model();
        let long: Vec<u32> = (0..300).map(|i| i * 7 % 48).collect();
        let rows: [&[u32]; 5] = [&[1, 7, 40], &long, &[5], &[3; 90], &long[..128]];
        let found = embed_rows(model.as_ref(), &rows, &mut Silent).unwrap();
        let mean = |row: &&[u32]| {
            let ids = &row[..row.len().min(MAX_TOKENS)];
            let hidden = model.hidden(&Array::from_slice(ids, &[1, ids.len() as i32]), None).unwrap();
            let mean = hidden.mean_axis(1, false).unwrap();
            kernels::eval([&mean]).unwrap();
            mean.as_slice::<f32>().to_vec()
        };
        let expected = Embeddings::new(rows.iter().flat_map(mean).collect(), 64).unwrap();
        let difference = found.largest_difference(&expected);
        assert!(difference < 1e-4, "{difference}");
    }

    #[test]
    fn rows_that_cannot_be_embedded_are_named() {
        let mut model = model();
        let error =
            |model: &Model, rows: &[&[u32]]| embed_rows(model, rows, &mut Silent).unwrap_err().to_string();
        assert_eq!(error(model.as_ref(), &[&[1], &[]]), "row 2 has no tokens");
        assert!(error(model.as_ref(), &[&[1], &[48]]).contains("token 48"));
        let nan = Array::from_slice(&[f32::NAN], &[1, 1]);
        model
            .visit_linears(&mut |_, layer| {
                *layer.weight = layer.weight.add(&nan)?;
                Ok(())
            })
            .unwrap();
        assert!(error(model.as_ref(), &[&[1, 2]]).contains("row 1 is not finite"));
    }
}
