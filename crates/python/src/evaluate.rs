//! `_core.evaluate`: scoring texts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use efficientai_toolkit::data::LocatedRow;
use efficientai_toolkit::evaluate::{self, Predictor, Settings, Span, run, score_spans};
use efficientai_toolkit::kernels::quantized::Accuracy;
use efficientai_toolkit::{Error, Result};
use pyo3::prelude::*;

use super::json::{json, parse};
use super::models::{Model, Tokenizer};
use super::observer::observed;

/// Loss and token accuracy on rows of data, as JSON.
///
/// ``rows`` are lines of ``path``, each with its number and its text, a JSON object as training reads it; ``settings`` is
/// the JSON of ``batch_size``, ``max_seq_length``, ``mask_prompt`` and, optionally, ``accuracy``.
#[pyfunction]
pub(super) fn score_rows(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    tokenizer: &Bound<'_, Tokenizer>,
    path: PathBuf,
    rows: Vec<(usize, String)>,
    settings: &str,
) -> PyResult<String> {
    let (model, tokenizer) = (model.get(), tokenizer.get().inner());
    observed(py, None, |caller| {
        let settings: Settings = parse(settings)?;
        let path: Arc<Path> = Arc::from(path);
        let rows: Result<Vec<LocatedRow>> =
            rows.iter().map(|(line, text)| LocatedRow::parse(text.as_bytes(), &path, *line)).collect();
        json(&run(model.lock()?.as_ref(), tokenizer, &rows?, &settings, caller)?)
    })
}

/// For each row of token ids and each of its tokens from ``start`` on: the natural logarithm of its
/// probability after the tokens before it, and whether no other token is likelier there.
///
/// ``rows`` are pairs of token ids and ``start``, which is at least 1; ``batch_size`` rows go through the model together.
#[pyfunction]
#[pyo3(signature = (model, rows, batch_size=8))]
pub(super) fn score_tokens(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    rows: Vec<(Vec<u32>, usize)>,
    batch_size: usize,
) -> PyResult<Vec<Vec<(f32, bool)>>> {
    let model = model.get();
    observed(py, None, |caller| {
        let spans: Vec<Span> = rows.into_iter().map(|(ids, start)| Span { ids, start }).collect();
        let scores = score_spans(model.lock()?.as_ref(), &spans, batch_size, caller)?;
        Ok(scores.into_iter().map(|row| row.iter().map(|s| (s.logprob, s.is_greedy)).collect()).collect())
    })
}

/// Divergence of ``model`` from ``reference`` on ``rows`` of token ids, as JSON; both may be the same model.
///
/// ``accuracy`` and ``reference_accuracy`` are those of products with quantized weights on the CPU: ``f32``, ``bf16`` or
/// ``int8``; by default that of the activations.
#[pyfunction]
#[pyo3(signature = (model, reference, rows, accuracy=None, reference_accuracy=None))]
pub(super) fn divergence(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    reference: &Bound<'_, Model>,
    rows: Vec<Vec<u32>>,
    accuracy: Option<&str>,
    reference_accuracy: Option<&str>,
) -> PyResult<String> {
    let is_same = model.is(reference);
    let (model, reference) = (model.get(), reference.get());
    observed(py, None, |caller| {
        let accuracy = parse_accuracy("accuracy", accuracy)?;
        let reference_accuracy = parse_accuracy("reference_accuracy", reference_accuracy)?;
        let model = model.lock()?;
        // One call may hold a model only once.
        let other = if is_same { None } else { Some(reference.lock()?) };
        let reference = other.as_deref().map_or(model.as_ref(), AsRef::as_ref);
        let model = Predictor { model: model.as_ref(), accuracy };
        let reference = Predictor { model: reference, accuracy: reference_accuracy };
        json(&evaluate::divergence(model, reference, &rows, caller)?)
    })
}

/// The accuracy that the argument `name` has.
///
/// # Errors
/// One that does not exist.
fn parse_accuracy(name: &str, accuracy: Option<&str>) -> Result<Option<Accuracy>> {
    let find = |text: &str| {
        let found = Accuracy::ALL.into_iter().find(|accuracy| accuracy.name() == text);
        found.ok_or_else(|| Error::Config(format!("{name} is {text:?}, expected f32, bf16 or int8")))
    };
    accuracy.map(find).transpose()
}
