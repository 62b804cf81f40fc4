//! `Processor`.

use std::path::PathBuf;
use std::sync::Arc;

use efficientai_toolkit::clip;
use efficientai_toolkit::data::{ImageSource, Pixels};
use numpy::{IntoPyArray as _, PyArray4, PyArrayMethods as _, PyReadonlyArray3};
use pyo3::inspect::PyStaticExpr;
use pyo3::prelude::*;
use pyo3::types::PyAny;
use pyo3::{Borrowed, type_hint_identifier, type_hint_subscript};

use super::features::Indices;
use crate::arguments::Text;
use crate::enter::enter;
use crate::error::{config_error, to_python};

/// Prepares images and texts for a model.
#[pyclass(frozen, module = "efficientai_toolkit._core.clip")]
pub(crate) struct Processor {
    inner: Arc<clip::Processor>,
}

impl Processor {
    pub(super) fn new(inner: Arc<clip::Processor>) -> Self {
        Self { inner }
    }
}

/// A path, or uint8 `[height, width, 3]`.
pub(super) struct Image(pub(super) ImageSource);

impl<'a, 'py> FromPyObject<'a, 'py> for Image {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr = type_hint_identifier!("typing", "Any");

    fn extract(image: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(pixels) = image.extract::<PyReadonlyArray3<'_, u8>>() {
            let pixels = pixels.as_array();
            let &[height, width, channels] = pixels.shape() else { return Err(wrong(image)) };
            if channels != 3 {
                return Err(wrong(image));
            }
            let side = |side: usize| u32::try_from(side).map_err(|_| wrong(image));
            let data = pixels.iter().copied().collect();
            let pixels = Pixels::new(side(width)?, side(height)?, data).map_err(to_python)?;
            return Ok(Self(ImageSource::Pixels(pixels)));
        }
        let path: PathBuf = image.extract().map_err(|_| wrong(image))?;
        Ok(Self(ImageSource::File(path)))
    }
}

fn wrong(image: Borrowed<'_, '_, PyAny>) -> PyErr {
    let shape = image.getattr("shape").map_or_else(|_| String::new(), |shape| format!(" of shape {shape}"));
    let kind = image.get_type();
    config_error(format!(
        "an image is a {kind}{shape}, expected a path, a PIL image or a uint8 array [height, width, 3]"
    ))
}

/// float32 `[images, 3, height, width]`.
pub(crate) struct PixelValues {
    /// `[images, height, width, 3]`.
    values: Vec<f32>,
    shape: [usize; 4],
}

impl<'py> IntoPyObject<'py> for PixelValues {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    const OUTPUT_TYPE: PyStaticExpr = type_hint_subscript!(
        type_hint_identifier!("numpy.typing", "NDArray"),
        type_hint_identifier!("numpy", "float32")
    );

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let array: Bound<'py, PyArray4<f32>> = self.values.into_pyarray(py).reshape(self.shape)?;
        let array = array.call_method1("transpose", (0, 3, 1, 2))?;
        py.import("numpy")?.call_method1("ascontiguousarray", (array,))
    }
}

#[pymethods]
impl Processor {
    /// Side of processed images in pixels.
    #[getter]
    fn image_size(&self) -> u32 {
        self.inner.images.size()
    }

    /// Length of rows of token ids.
    #[getter]
    fn context_length(&self) -> usize {
        self.inner.texts.context()
    }

    /// Normalized images, float32 ``[images, 3, size, size]``, of paths and uint8 arrays ``[height, width, 3]``.
    fn process_images(&self, py: Python<'_>, images: Vec<Image>) -> PyResult<PixelValues> {
        enter(py, || {
            let sources: Vec<ImageSource> = images.into_iter().map(|Image(source)| source).collect();
            let size = self.inner.images.size() as usize;
            let values = self.inner.images.process(&sources)?;
            Ok(PixelValues { values, shape: [sources.len(), size, size, 3] })
        })
    }

    /// Token ids of texts, uint32 ``[texts, context_length]``. With ``truncate``, longer texts lose their last tokens.
    #[pyo3(signature = (texts, truncate=false))]
    fn process_texts(&self, py: Python<'_>, texts: Vec<Text>, truncate: bool) -> PyResult<Indices> {
        enter(py, || {
            let texts: Vec<&str> = texts.iter().map(|Text(text)| text.as_str()).collect();
            let values = self.inner.texts.encode_rows(&texts, truncate)?;
            Ok(Indices { values, rows: texts.len(), count: self.inner.texts.context() })
        })
    }
}
