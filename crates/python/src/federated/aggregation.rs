//! All updates at once, or one by one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use efficientai_toolkit::federated::{self as engine, AggregateConfig, Tensor, Updates};
use pyo3::prelude::*;

use super::arrays::{Input, Output, inputs};
use crate::arguments::Dictionary;
use crate::enter::enter;
use crate::json::json;

/// Aggregates updates; returns flat arrays in the order of ``names``, and a JSON report.
///
/// ``updates`` are arrays in C order by client, float16 and bfloat16 as uint16.
#[pyfunction]
#[pyo3(signature = (names, dtypes, clients, updates, weights, reference, rule, options))]
#[expect(clippy::too_many_arguments, reason = "the parts of one round")]
pub(crate) fn aggregate<'py>(
    py: Python<'py>,
    names: Vec<String>,
    dtypes: Vec<String>,
    clients: Vec<String>,
    updates: Vec<Vec<Bound<'py, PyAny>>>,
    weights: Option<Vec<f64>>,
    reference: Option<Vec<Bound<'py, PyAny>>>,
    rule: &str,
    options: Dictionary<'py>,
) -> PyResult<(Vec<Bound<'py, PyAny>>, String)> {
    let options = options.read("options")?;
    let updates: Vec<Vec<Input>> =
        updates.iter().map(|arrays| inputs(arrays, &dtypes)).collect::<PyResult<_>>()?;
    let reference: Option<Vec<Input>> = reference.map(|arrays| inputs(&arrays, &dtypes)).transpose()?;
    let mut tensors = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        tensors.push(Tensor {
            name,
            clients: updates.iter().map(|arrays| arrays[index].values()).collect::<PyResult<_>>()?,
            reference: reference.as_ref().map(|arrays| arrays[index].values()).transpose()?,
        });
    }
    let updates = Updates { clients, tensors };
    let lengths = updates.tensors.iter().map(|tensor| tensor.clients.first().map_or(0, engine::Values::len));
    let mut outputs: Vec<Output> =
        lengths.zip(&dtypes).map(|(len, dtype)| Output::new(len, dtype)).collect::<PyResult<_>>()?;
    let slices = outputs.iter_mut().map(Output::values).collect();
    let report = enter(py, || {
        let config = AggregateConfig::parse(rule, options)?;
        json(&engine::aggregate(&updates, weights.as_deref(), &config, slices)?)
    })?;
    Ok((outputs.into_iter().map(|output| output.into_array(py)).collect(), report))
}

/// A weighted average of updates that come one by one, in the memory of one update in float64.
#[pyclass(frozen, module = "efficientai_toolkit._core.federated")]
pub(crate) struct Accumulator {
    sums: Mutex<engine::Accumulator>,
    lengths: Vec<usize>,
}

impl Accumulator {
    fn sums(&self) -> MutexGuard<'_, engine::Accumulator> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Accumulator {
    /// Sums of tensors of these names and numbers of elements.
    #[new]
    fn new(names: Vec<String>, lengths: Vec<usize>) -> Self {
        let sums = engine::Accumulator::new(names.into_iter().zip(lengths.iter().copied()));
        Self { sums: Mutex::new(sums), lengths }
    }

    /// Adds the update of ``client``, or none of it.
    fn add(
        &self,
        py: Python<'_>,
        client: &str,
        update: Vec<Bound<'_, PyAny>>,
        dtypes: Vec<String>,
        weight: f64,
    ) -> PyResult<()> {
        let arrays = inputs(&update, &dtypes)?;
        let values = arrays.iter().map(Input::values).collect::<PyResult<Vec<_>>>()?;
        enter(py, || self.sums().add(client, &values, weight))
    }

    /// The average so far, as flat arrays.
    fn average<'py>(&self, py: Python<'py>, dtypes: Vec<String>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let outputs = self.lengths.iter().zip(&dtypes).map(|(&len, dtype)| Output::new(len, dtype));
        let mut outputs: Vec<Output> = outputs.collect::<PyResult<_>>()?;
        let slices = outputs.iter_mut().map(Output::values).collect();
        enter(py, || self.sums().average(slices))?;
        Ok(outputs.into_iter().map(|output| output.into_array(py)).collect())
    }

    /// Number of updates so far.
    #[getter]
    fn count(&self) -> u64 {
        self.sums().count()
    }

    /// Sum of their weights.
    #[getter]
    fn weight(&self) -> f64 {
        self.sums().weight()
    }
}
