//! `_core.clip`: image–text models.

use std::path::PathBuf;
use std::sync::Arc;

use efficientai_toolkit::clip;
use efficientai_toolkit::data::{ImageTexts, read_image_texts};
use efficientai_toolkit::io::tensors;
use efficientai_toolkit::kernels;
use efficientai_toolkit::models::clip::Interpolation;
use mlx_rs::Dtype;
use pyo3::prelude::*;

use super::arguments::{Integer, Text};
use super::enter::enter;
use super::json::json;
use super::observer::observed;
use features::{Features, Indices};

mod features;
mod model;
mod processor;
mod training;

pub(crate) use model::Model;
pub(crate) use processor::Processor;
pub(crate) use training::{check, check_output, defaults, train, validate};

/// The dtype of most weights of a checkpoint.
const AUTO: &str = "auto";

/// Loads a folder of CLIP or `SigLIP`, in the format of Hugging Face or `open_clip`, with its processor.
///
/// ``dtype`` is ``float32``, ``float16``, ``bfloat16`` or, for that of the checkpoint, ``auto``; ``None`` takes float32 on a
/// CPU and the checkpoint's own on a GPU. Position embeddings are interpolated for images of another ``image_size``, as
/// ``huggingface`` or ``open_clip`` does.
#[pyfunction]
#[pyo3(signature = (path, dtype=None, image_size=None, interpolation="huggingface", adapter_path=None))]
pub(crate) fn load(
    py: Python<'_>,
    path: PathBuf,
    dtype: Option<Text>,
    image_size: Option<Integer>,
    interpolation: &str,
    adapter_path: Option<PathBuf>,
) -> PyResult<(Model, Processor)> {
    enter(py, || {
        let dtype = match dtype {
            Some(Text(name)) if name == AUTO => None,
            Some(Text(name)) => Some(tensors::dtype(&name)?),
            None => kernels::on_cpu().then_some(Dtype::Float32),
        };
        let image_size = image_size.map(|Integer(size)| i32::try_from(size).unwrap_or(i32::MAX));
        let config =
            clip::LoadConfig { dtype, image_size, interpolation: Interpolation::parse(interpolation)? };
        let (mut model, processor) = clip::load(&path, &config)?;
        if let Some(adapter) = adapter_path {
            clip::load_adapter(&adapter, &mut model)?;
        }
        let processor = Arc::new(processor);
        Ok((Model::new(model, path, Arc::clone(&processor)), Processor::new(processor)))
    })
}

/// Finds the ``count`` rows of ``index`` with the largest inner product with each row of ``queries``, both float32
/// ``[rows, dim]``; returns their numbers and the products, ``[queries, count]``, the best first.
#[pyfunction]
pub(crate) fn search(
    py: Python<'_>,
    queries: Features,
    index: Features,
    count: Integer,
) -> PyResult<(Indices, Features)> {
    observed(py, None, |caller| {
        queries.check_dim(&index)?;
        let count = count.count("count")?;
        let found = clip::search(&queries.values, &index.values, index.dim, count, caller)?;
        let scores = Features { values: found.scores, rows: queries.rows, dim: found.count };
        Ok((Indices { values: found.indices, rows: queries.rows, count: found.count }, scores))
    })
}

/// Recall at each of ``k`` of ``images`` and ``texts``, float32 ``[rows, dim]`` of unit length, as JSON; ``owners`` tells
/// the number of the image that each text belongs to.
#[pyfunction]
pub(crate) fn recall(
    py: Python<'_>,
    images: Features,
    texts: Features,
    owners: Vec<usize>,
    k: Vec<usize>,
) -> PyResult<String> {
    observed(py, None, |caller| {
        images.check_dim(&texts)?;
        json(&clip::recall([&images.values, &texts.values], images.dim, &owners, &k, caller)?)
    })
}

/// Reads image–text pairs from a table or a folder of images: paths, each with its texts.
#[pyfunction]
pub(crate) fn read_pairs(py: Python<'_>, path: PathBuf) -> PyResult<Vec<(PathBuf, Vec<String>)>> {
    enter(py, || {
        let pairs = read_image_texts(&path)?;
        Ok(pairs.into_iter().map(|ImageTexts { image, texts }| (image, texts)).collect())
    })
}
