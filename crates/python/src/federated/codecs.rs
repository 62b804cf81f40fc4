//! Updates as bytes.

use efficientai_toolkit::federated::Codec;
use numpy::{IntoPyArray as _, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::enter::enter_without_threads;
use crate::json::parse;

/// Bytes of a tensor of ``shape``; ``codec`` is the JSON of a ``Codec``.
#[pyfunction]
pub(crate) fn wire_bytes(py: Python<'_>, codec: &str, shape: Vec<usize>) -> PyResult<usize> {
    enter_without_threads(py, || parse::<Codec>(codec)?.wire_bytes(&shape))
}

/// Encodes float64 ``values`` of ``shape``.
#[pyfunction]
#[pyo3(signature = (codec, values, shape, seed, previous))]
pub(crate) fn encode<'py>(
    py: Python<'py>,
    codec: &str,
    values: PyReadonlyArray1<'py, f64>,
    shape: Vec<usize>,
    seed: u64,
    previous: Option<&[u8]>,
) -> PyResult<Bound<'py, PyBytes>> {
    let values = values.as_slice()?;
    let message =
        enter_without_threads(py, || parse::<Codec>(codec)?.encode(values, &shape, seed, previous))?;
    Ok(PyBytes::new(py, &message))
}

/// Decodes a tensor of ``shape`` as a flat float32 array.
#[pyfunction]
pub(crate) fn decode<'py>(
    py: Python<'py>,
    codec: &str,
    message: &[u8],
    shape: Vec<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let values = enter_without_threads(py, || parse::<Codec>(codec)?.decode(message, &shape))?;
    Ok(values.into_pyarray(py).into_any())
}
