//! Numpy arrays as slices of the engine. Halves come as uint16, whatever library names their dtype.

use efficientai_toolkit::federated::{Values, ValuesMut};
use half::slice::HalfBitsSliceExt as _;
use half::vec::HalfFloatVecExt as _;
use half::{bf16, f16};
use numpy::{IntoPyArray as _, PyArrayDyn, PyArrayMethods as _, PyReadonlyArrayDyn};
use pyo3::prelude::*;

use crate::error::config_error;

/// An array in C order.
pub(super) enum Input<'py> {
    F64(PyReadonlyArrayDyn<'py, f64>),
    F32(PyReadonlyArrayDyn<'py, f32>),
    F16(PyReadonlyArrayDyn<'py, u16>),
    Bf16(PyReadonlyArrayDyn<'py, u16>),
}

impl<'py> Input<'py> {
    /// Reads `array` as `dtype`.
    pub(super) fn new(array: &Bound<'py, PyAny>, dtype: &str) -> PyResult<Self> {
        Ok(match dtype {
            "float64" => Self::F64(array.cast::<PyArrayDyn<f64>>()?.try_readonly()?),
            "float32" => Self::F32(array.cast::<PyArrayDyn<f32>>()?.try_readonly()?),
            "float16" => Self::F16(array.cast::<PyArrayDyn<u16>>()?.try_readonly()?),
            "bfloat16" => Self::Bf16(array.cast::<PyArrayDyn<u16>>()?.try_readonly()?),
            other => return Err(unknown(other)),
        })
    }

    /// Its numbers.
    pub(super) fn values(&self) -> PyResult<Values<'_>> {
        Ok(match self {
            Self::F64(array) => Values::F64(array.as_slice()?),
            Self::F32(array) => Values::F32(array.as_slice()?),
            Self::F16(array) => Values::F16(array.as_slice()?.reinterpret_cast()),
            Self::Bf16(array) => Values::Bf16(array.as_slice()?.reinterpret_cast()),
        })
    }
}

fn unknown(dtype: &str) -> PyErr {
    config_error(format!("dtype {dtype}, expected float64, float32, float16 or bfloat16"))
}

/// Arrays of one dtype each.
pub(super) fn inputs<'py>(arrays: &[Bound<'py, PyAny>], dtypes: &[String]) -> PyResult<Vec<Input<'py>>> {
    arrays.iter().zip(dtypes).map(|(array, dtype)| Input::new(array, dtype)).collect()
}

/// Numbers that become an array.
pub(super) enum Output {
    F64(Vec<f64>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Output {
    /// `len` zeros.
    pub(super) fn new(len: usize, dtype: &str) -> PyResult<Self> {
        Ok(match dtype {
            "float64" => Self::F64(vec![0.0; len]),
            "float32" => Self::F32(vec![0.0; len]),
            "float16" => Self::F16(vec![f16::ZERO; len]),
            "bfloat16" => Self::Bf16(vec![bf16::ZERO; len]),
            other => return Err(unknown(other)),
        })
    }

    pub(super) fn values(&mut self) -> ValuesMut<'_> {
        match self {
            Self::F64(numbers) => ValuesMut::F64(numbers),
            Self::F32(numbers) => ValuesMut::F32(numbers),
            Self::F16(numbers) => ValuesMut::F16(numbers),
            Self::Bf16(numbers) => ValuesMut::Bf16(numbers),
        }
    }

    /// A flat array, halves as uint16.
    pub(super) fn into_array(self, py: Python<'_>) -> Bound<'_, PyAny> {
        match self {
            Self::F64(numbers) => numbers.into_pyarray(py).into_any(),
            Self::F32(numbers) => numbers.into_pyarray(py).into_any(),
            Self::F16(numbers) => numbers.reinterpret_into().into_pyarray(py).into_any(),
            Self::Bf16(numbers) => numbers.reinterpret_into().into_pyarray(py).into_any(),
        }
    }
}
