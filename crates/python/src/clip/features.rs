//! Rows of numbers, between numpy and the engine.

use efficientai_toolkit::{Error, Result};
use numpy::{IntoPyArray as _, PyArray2, PyArrayMethods as _, PyReadonlyArray2};
use pyo3::inspect::PyStaticExpr;
use pyo3::prelude::*;
use pyo3::types::PyAny;
use pyo3::{Borrowed, type_hint_identifier, type_hint_subscript};

use crate::error::config_error;

/// float32 `[rows, dim]`.
pub(crate) struct Features {
    /// Row by row.
    pub(super) values: Vec<f32>,
    pub(super) rows: usize,
    pub(super) dim: usize,
}

impl Features {
    /// Checks that `other` has features of the same size.
    ///
    /// # Errors
    /// Other sizes, both named.
    pub(super) fn check_dim(&self, other: &Self) -> Result<()> {
        if self.dim == other.dim {
            return Ok(());
        }
        Err(Error::Config(format!("features of {} and {} numbers cannot be compared", self.dim, other.dim)))
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Features {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr = type_hint_identifier!("numpy.typing", "ArrayLike");

    fn extract(features: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let wrong = |what: String| config_error(format!("features {what}, expected numbers [rows, dim]"));
        let array = features.py().import("numpy")?.call_method1("ascontiguousarray", (features, "float32"));
        let array = array.map_err(|error| wrong(format!("are no array ({error})")))?;
        let shape: Vec<usize> = array.getattr("shape")?.extract()?;
        let array: PyReadonlyArray2<'_, f32> =
            array.extract().map_err(|_| wrong(format!("have shape {shape:?}")))?;
        Ok(Self { values: array.as_slice()?.to_vec(), rows: shape[0], dim: shape[1] })
    }
}

impl<'py> IntoPyObject<'py> for Features {
    type Target = PyArray2<f32>;
    type Output = Bound<'py, Self::Target>;
    type Error = PyErr;

    const OUTPUT_TYPE: PyStaticExpr = type_hint_subscript!(
        type_hint_identifier!("numpy.typing", "NDArray"),
        type_hint_identifier!("numpy", "float32")
    );

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        self.values.into_pyarray(py).reshape([self.rows, self.dim])
    }
}

/// uint32 `[rows, count]`.
pub(crate) struct Indices {
    /// Row by row.
    pub(super) values: Vec<u32>,
    pub(super) rows: usize,
    pub(super) count: usize,
}

impl<'py> IntoPyObject<'py> for Indices {
    type Target = PyArray2<u32>;
    type Output = Bound<'py, Self::Target>;
    type Error = PyErr;

    const OUTPUT_TYPE: PyStaticExpr = type_hint_subscript!(
        type_hint_identifier!("numpy.typing", "NDArray"),
        type_hint_identifier!("numpy", "uint32")
    );

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        self.values.into_pyarray(py).reshape([self.rows, self.count])
    }
}
