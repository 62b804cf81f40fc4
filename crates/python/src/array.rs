//! Arrays between numpy and the engine, typed in the stubs.

use efficientai_toolkit::{Error, Result, kernels};
use mlx_rs::{Array, Dtype};
use numpy::{IntoPyArray as _, PyArray1, PyArray3, PyArrayMethods as _};
use pyo3::inspect::PyStaticExpr;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict as _, PyAny};
use pyo3::{Borrowed, type_hint_identifier, type_hint_subscript};

use super::error::to_python;

/// Integers `[batch, time]`, whatever numpy can make such an array of.
pub(super) struct Ids {
    /// Row by row.
    pub(super) values: Vec<i64>,
    /// `[batch, time]`
    pub(super) shape: [usize; 2],
}

impl<'a, 'py> FromPyObject<'a, 'py> for Ids {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr = type_hint_identifier!("numpy.typing", "ArrayLike");

    fn extract(ids: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let wrong =
            |what: String| to_python(Error::Config(format!("ids {what}, expected integers [batch, time]")));
        let array = ids.py().import("numpy")?.call_method1("asarray", (ids,));
        let array = array.map_err(|error| wrong(format!("are no array ({error})")))?;
        let kind: String = array.getattr("dtype")?.getattr("kind")?.extract()?;
        if !matches!(kind.as_str(), "i" | "u") {
            return Err(wrong(format!("are {}", array.getattr("dtype")?)));
        }
        let shape: Vec<usize> = array.getattr("shape")?.extract()?;
        let shape = shape.try_into().map_err(|shape| wrong(format!("have shape {shape:?}")))?;
        let options = [("copy", false)].into_py_dict(ids.py())?;
        let values = array.call_method("astype", ("int64",), Some(&options))?.call_method0("ravel")?;
        Ok(Self { values: values.cast::<PyArray1<i64>>()?.to_vec()?, shape })
    }
}

/// Numbers `[length]`, whatever numpy can make such a float32 array of.
pub(super) struct Row(pub(super) Vec<f32>);

impl<'a, 'py> FromPyObject<'a, 'py> for Row {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr = type_hint_identifier!("numpy.typing", "ArrayLike");

    fn extract(row: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let array = row.py().import("numpy")?.call_method1("asarray", (row, "float32"))?;
        Ok(Self(array.cast::<PyArray1<f32>>()?.to_vec()?))
    }
}

/// float32 `[batch, time, vocab]`.
pub(super) struct Logits {
    /// Row by row.
    pub(super) values: Vec<f32>,
    /// `[batch, time, vocab]`
    pub(super) shape: [usize; 3],
}

impl<'py> IntoPyObject<'py> for Logits {
    type Target = PyArray3<f32>;
    type Output = Bound<'py, Self::Target>;
    type Error = PyErr;

    const OUTPUT_TYPE: PyStaticExpr = type_hint_subscript!(
        type_hint_identifier!("numpy.typing", "NDArray"),
        type_hint_identifier!("numpy", "float32")
    );

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        self.values.into_pyarray(py).reshape(self.shape)
    }
}

/// The same as an `mlx.core.array`.
pub(super) struct MlxLogits(pub(super) Logits);

impl<'py> IntoPyObject<'py> for MlxLogits {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    const OUTPUT_TYPE: PyStaticExpr = type_hint_identifier!("mlx.core", "array");

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        py.import("mlx.core")?.call_method1("array", (self.0.into_pyobject(py)?,))
    }
}

/// A copy of an array of the engine: float32, uint32 or uint8.
pub(super) struct Parameter {
    values: Numbers,
    shape: Vec<usize>,
}

enum Numbers {
    Float(Vec<f32>),
    Words(Vec<u32>),
    Bytes(Vec<u8>),
}

impl Parameter {
    /// Copies `array`; half precision becomes float32.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn copy(array: &Array) -> Result<Self> {
        let dtype = match array.dtype() {
            Dtype::Uint32 => Dtype::Uint32,
            Dtype::Uint8 => Dtype::Uint8,
            _ => Dtype::Float32,
        };
        // Rows in order, whatever view of them the model holds.
        let array = array.as_dtype(dtype)?.contiguous()?;
        kernels::eval([&array])?;
        let values = match dtype {
            Dtype::Uint32 => Numbers::Words(array.as_slice::<u32>().to_vec()),
            Dtype::Uint8 => Numbers::Bytes(array.as_slice::<u8>().to_vec()),
            _ => Numbers::Float(array.as_slice::<f32>().to_vec()),
        };
        Ok(Self { values, shape: array.shape().iter().map(|&dim| dim as usize).collect() })
    }
}

impl<'py> IntoPyObject<'py> for Parameter {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    const OUTPUT_TYPE: PyStaticExpr = type_hint_subscript!(
        type_hint_identifier!("numpy.typing", "NDArray"),
        type_hint_identifier!("typing", "Any")
    );

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        Ok(match self.values {
            Numbers::Float(values) => values.into_pyarray(py).reshape(self.shape)?.into_any(),
            Numbers::Words(values) => values.into_pyarray(py).reshape(self.shape)?.into_any(),
            Numbers::Bytes(values) => values.into_pyarray(py).reshape(self.shape)?.into_any(),
        })
    }
}
