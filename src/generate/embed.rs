//! Embeddings of texts: pooled hidden states of a decoder.

use std::sync::Arc;

use mlx_rs::{Array, Dtype};
use serde::{Deserialize, Serialize};

use crate::models::{self, Model};
use crate::nn::{RowAdapter, RowAdapters, Segments};
use crate::{Error, Result, kernels};

/// Tokens that are read at once, which bounds the memory; a longer text is read alone.
const TOKENS_AT_ONCE: usize = 2048;

/// Which hidden states make the embedding of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over all tokens.
    #[default]
    Mean,
    /// That of the last token.
    Last,
}

/// Returns the embedding of each text (token ids), of length 1, `[texts][hidden]`, with an `adapter` in place of what is
/// attached to the model, if there is one.
///
/// # Errors
/// A text without tokens, or with one that is not in the vocabulary; a model with a soft prompt.
pub fn embed(
    model: &Model,
    texts: &[Vec<u32>],
    pooling: Pooling,
    adapter: Option<&Arc<RowAdapter>>,
) -> Result<Vec<Vec<f32>>> {
    for (index, text) in texts.iter().enumerate() {
        if text.is_empty() {
            return Err(Error::Config(format!("text {index} has no tokens")));
        }
        models::check_tokens(text, model.vocab_size())?;
    }
    let mut embeddings = Vec::with_capacity(texts.len());
    let mut rest = texts;
    while !rest.is_empty() {
        let mut total = 0;
        let fits = |text: &&Vec<u32>| {
            total += text.len();
            total <= TOKENS_AT_ONCE
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count);
        embeddings.extend(embed_packed(model, now, pooling, adapter)?);
        rest = later;
    }
    Ok(embeddings)
}

/// Embeddings of texts that are read as one row.
fn embed_packed(
    model: &Model,
    texts: &[Vec<u32>],
    pooling: Pooling,
    adapter: Option<&Arc<RowAdapter>>,
) -> Result<Vec<Vec<f32>>> {
    let tokens: Vec<u32> = texts.concat();
    let time = tokens.len() as i32;
    let mut starts = Vec::with_capacity(tokens.len());
    for text in texts {
        starts.resize(starts.len() + text.len(), starts.len() as i32);
    }
    let segments = Segments::new(&starts, 1, time)?;
    let ids = Array::from_slice(&tokens, &[1, time]);
    let adapters = RowAdapters::new([(tokens.len(), adapter.cloned())]);
    let hidden = adapters.scope(|| model.hidden_segmented(&ids, &segments))?.as_dtype(Dtype::Float32)?;
    kernels::eval([&hidden])?;
    let width = hidden.dim(-1).unsigned_abs() as usize;
    let mut states = hidden.as_slice::<f32>();
    let embedding = |text: &Vec<u32>| {
        let own = states.split_off(..text.len() * width).unwrap_or_default();
        normalized(match pooling {
            Pooling::Mean => (0..width).map(|i| own.iter().skip(i).step_by(width).sum()).collect(),
            Pooling::Last => own[own.len() - width..].to_vec(),
        })
    };
    Ok(texts.iter().map(embedding).collect())
}

/// `x` divided by its length.
fn normalized(x: Vec<f32>) -> Vec<f32> {
    let length = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "embeddings are f32")]
    let divide = |x: f32| (f64::from(x) / length.max(f64::MIN_POSITIVE)) as f32;
    x.into_iter().map(divide).collect()
}
