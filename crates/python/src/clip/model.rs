//! `Model`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use efficientai_toolkit::clip::{self, Format};
use efficientai_toolkit::data::ImageSource;
use efficientai_toolkit::kernels;
use efficientai_toolkit::models::clip::{Clip, Kind};
use efficientai_toolkit::nn::Network as _;
use mlx_rs::{Array, Dtype};
use numpy::PyReadonlyArray4;
use pyo3::prelude::*;

use super::features::Features;
use super::processor::Image;
use crate::arguments::Integer;
use crate::array::Ids;
use crate::enter::enter;
use crate::error::config_error;
use crate::exclusive::Exclusive;
use crate::observer::observed;

/// A model of images and texts.
#[pyclass(frozen, module = "efficientai_toolkit._core.clip")]
pub(crate) struct Model {
    pub(super) inner: Exclusive<Clip>,
    pub(super) folder: PathBuf,
    pub(super) processor: Arc<clip::Processor>,
}

impl Model {
    pub(super) fn new(inner: Clip, folder: PathBuf, processor: Arc<clip::Processor>) -> Self {
        Self { inner: Exclusive::new(inner), folder, processor }
    }
}

/// The value of a scalar parameter.
fn number(array: &Array) -> efficientai_toolkit::Result<f32> {
    let number = array.as_dtype(Dtype::Float32)?;
    kernels::eval([&number])?;
    Ok(number.as_slice::<f32>()[0])
}

#[pymethods]
impl Model {
    /// Folder the model came from.
    #[getter]
    fn path(&self) -> &Path {
        &self.folder
    }

    /// ``clip`` or ``siglip``.
    #[getter]
    fn model_type(&self, py: Python<'_>) -> PyResult<&'static str> {
        enter(py, || Ok(if self.inner.lock()?.kind() == Kind::Siglip { "siglip" } else { "clip" }))
    }

    /// Number format of activations: float32, float16 or bfloat16.
    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<String> {
        enter(py, || Ok(format!("{:?}", self.inner.lock()?.dtype()).to_lowercase()))
    }

    /// Number of parameters; packed weights count as what they stand for.
    #[getter]
    fn num_parameters(&self, py: Python<'_>) -> PyResult<u64> {
        enter(py, || self.inner.lock()?.count_parameters())
    }

    /// Size of features.
    #[getter]
    fn dim(&self, py: Python<'_>) -> PyResult<i32> {
        enter(py, || Ok(self.inner.lock()?.dim()))
    }

    /// Side of images in pixels.
    #[getter]
    fn image_size(&self, py: Python<'_>) -> PyResult<i32> {
        enter(py, || Ok(self.inner.lock()?.image_size()))
    }

    /// Longest text, in tokens.
    #[getter]
    fn context_length(&self, py: Python<'_>) -> PyResult<i32> {
        enter(py, || Ok(self.inner.lock()?.context()))
    }

    /// Logarithm of what similarities are multiplied by.
    #[getter]
    fn logit_scale(&self, py: Python<'_>) -> PyResult<f32> {
        enter(py, || number(self.inner.lock()?.logit_scale()))
    }

    /// Added to logits by `SigLIP`; ``None`` for CLIP.
    #[getter]
    fn logit_bias(&self, py: Python<'_>) -> PyResult<Option<f32>> {
        enter(py, || self.inner.lock()?.logit_bias().map(number).transpose())
    }

    /// Features of paths and uint8 arrays ``[height, width, 3]``: float32 ``[images, dim]``.
    fn encode_images(
        &self,
        py: Python<'_>,
        images: Vec<Image>,
        normalize: bool,
        batch_size: Integer,
    ) -> PyResult<Features> {
        observed(py, None, |caller| {
            let sources: Vec<ImageSource> = images.into_iter().map(|Image(source)| source).collect();
            let batch_size = batch_size.count("batch_size")?;
            let model = self.inner.lock()?;
            let values =
                clip::encode_images(&model, &self.processor, &sources, batch_size, normalize, caller)?;
            Ok(Features { values, rows: sources.len(), dim: model.dim() as usize })
        })
    }

    /// Features of normalized images, float32 ``[images, 3, height, width]``: float32 ``[images, dim]``.
    fn encode_pixels(
        &self,
        py: Python<'_>,
        pixels: PyReadonlyArray4<'_, f32>,
        normalize: bool,
        batch_size: Integer,
    ) -> PyResult<Features> {
        let view = pixels.as_array();
        let shape = <[usize; 4]>::try_from(view.shape())
            .map_err(|_| config_error("images are an array of four dimensions".to_owned()))?;
        let values: Vec<f32> = view.iter().copied().collect();
        observed(py, None, |caller| {
            let batch_size = batch_size.count("batch_size")?;
            let model = self.inner.lock()?;
            let values = clip::encode_pixels(&model, &values, shape, batch_size, normalize, caller)?;
            Ok(Features { values, rows: shape[0], dim: model.dim() as usize })
        })
    }

    /// Features of token ids, integers ``[texts, length]``: float32 ``[texts, dim]``.
    fn encode_ids(
        &self,
        py: Python<'_>,
        ids: Ids,
        normalize: bool,
        batch_size: Integer,
    ) -> PyResult<Features> {
        let wrong = |id: i64| config_error(format!("ids hold {id}, which is no token"));
        let tokens: PyResult<Vec<u32>> =
            ids.values.iter().map(|&id| u32::try_from(id).map_err(|_| wrong(id))).collect();
        let tokens = tokens?;
        observed(py, None, |caller| {
            let batch_size = batch_size.count("batch_size")?;
            let model = self.inner.lock()?;
            let values = clip::encode_texts(&model, &tokens, ids.shape[0], batch_size, normalize, caller)?;
            Ok(Features { values, rows: ids.shape[0], dim: model.dim() as usize })
        })
    }

    /// Saves the model with its processor to a folder, in the format ``huggingface`` or ``open_clip``.
    fn save(&self, py: Python<'_>, folder: PathBuf, format: &str) -> PyResult<()> {
        enter(py, || {
            let format = Format::parse(format)?;
            clip::save(&self.folder, &folder, &*self.inner.lock()?, &self.processor, format)
        })
    }
}
