//! Arrays between numpy and the engine, typed in the stubs.

use efficientai_toolkit::Error;
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
