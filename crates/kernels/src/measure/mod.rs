//! Benchmarks of the operations.
//!
//! [`measure`] and [`measure_convolution`] time one operation of a given size. [`report`] times every operation at a
//! typical size and compares it with the [roofline](https://doi.org/10.1145/1498765.1498785) of the machine, from peaks
//! measured by [`Peaks`].
//!
//! Operations are called through their public functions, so the timings are those that models see, on GPUs too.

use std::time::Instant;

use mlx_rs::{Array, Dtype};
use serde::Deserialize;

use crate::error::MlxResult;
use crate::eval;
use crate::linear::{Layer, Weight, linears};
use crate::quantized::{Accuracy, Format, PackedWeight};
use crate::sparse::SparseMatrix;
use crate::{Error, Result};

mod cases;
mod convolution;
mod peaks;
mod random;
mod report;

pub use convolution::{Convolution, Pass, measure_convolution};
pub use peaks::Peaks;
pub use report::{Bound, Report, Row, report};

/// Maximum extent of a layer.
const MAX_EXTENT: usize = 1 << 20;
/// Maximum number of elements of a matrix: 1 GiB in f32.
const MAX_ELEMENTS: usize = 1 << 28;

/// Operation timed by [`measure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `x·Wᵀ`
    Linear,
    /// `x·Wᵀ` with a quantized `W`.
    QuantizedLinear,
}

/// Dtype of activations and dense weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Float {
    Float32,
    Float16,
    Bfloat16,
}

impl Float {
    fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::Float32,
            Self::Float16 => Dtype::Float16,
            Self::Bfloat16 => Dtype::Bfloat16,
        }
    }
}

/// An operation and its size: `x` is `[rows, inputs]` and `W` is `[outputs, inputs]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Request {
    pub operation: Operation,
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub dtype: Float,
    /// Bits of a quantized weight: 2, 3, 4, 5, 6 or 8.
    pub bits: Option<usize>,
    /// Group size of a quantized weight: 32, 64 or 128.
    pub group_size: usize,
    /// Accuracy of products with a quantized weight; determined by `dtype` if `None`.
    pub accuracy: Option<Accuracy>,
    /// Fraction of zeros of a weight that is held sparse; a weight without zeros is not if `None`.
    #[serde(default)]
    pub sparsity: Option<f64>,
}

impl Request {
    /// The format of the packed weight, if there is one.
    fn check(&self) -> Result<Option<Format>> {
        let invalid = |message: String| Err(Error::Config(message));
        let (rows, inputs, outputs) = (self.rows, self.inputs, self.outputs);
        for (name, extent) in [("rows", rows), ("inputs", inputs), ("outputs", outputs)] {
            if !(1..=MAX_EXTENT).contains(&extent) {
                return invalid(format!("`{name}` must be from 1 to {MAX_EXTENT}, not {extent}"));
            }
        }
        let matrices = [("rows", "inputs", rows * inputs), ("rows", "outputs", rows * outputs)];
        for (first, second, numbers) in matrices.into_iter().chain([("inputs", "outputs", inputs * outputs)])
        {
            if numbers > MAX_ELEMENTS {
                return invalid(format!(
                    "`{first}` times `{second}` must be at most {MAX_ELEMENTS}, not {numbers}"
                ));
            }
        }
        if let Some(sparsity) = self.sparsity
            && !((0.0..=1.0).contains(&sparsity) && self.bits.is_none_or(|bits| matches!(bits, 4 | 8)))
        {
            return invalid(format!(
                "`sparsity` is from 0 to 1, of weights in floating point, 4 or 8 bits, not {sparsity} with bits {:?}",
                self.bits
            ));
        }
        match (self.operation, self.bits) {
            (Operation::Linear, None) if self.accuracy.is_none() => Ok(None),
            (Operation::Linear, _) => invalid(
                "`bits` and `accuracy` are for quantized_linear: leave them out for linear".to_owned(),
            ),
            (Operation::QuantizedLinear, None) => {
                invalid("quantized_linear needs `bits`: 2, 3, 4, 5, 6 or 8".to_owned())
            }
            (Operation::QuantizedLinear, Some(bits)) => {
                let format = Format::affine(bits, self.group_size)
                    .map_err(|error| Error::Config(error.what().to_owned()))?;
                if !inputs.is_multiple_of(self.group_size) {
                    let group = self.group_size;
                    return invalid(format!(
                        "`inputs` must be a multiple of `group_size` ({group}), not {inputs}"
                    ));
                }
                Ok(Some(format))
            }
        }
    }
}

/// Returns the median time of one call in seconds, on random inputs. Takes at least half a second.
///
/// # Errors
/// [`Error::Config`] for invalid or too large sizes, before anything is allocated.
pub fn measure(request: &Request) -> Result<f64> {
    let format = request.check()?;
    let Request { rows, inputs, outputs, accuracy, .. } = *request;
    let x = random::floats(&[rows, inputs], request.dtype.dtype(), 1)?;
    let dtype = request.dtype.dtype();
    let weight = match (format, request.sparsity) {
        (format, Some(sparsity)) => Matrix::Sparse(random::sparse(outputs, inputs, format, dtype, sparsity)?),
        (None, None) => Matrix::Dense(random::floats(&[outputs, inputs], dtype, 2)?),
        (Some(format), None) => Matrix::Packed(random::packed(outputs, inputs, format, dtype)?),
    };
    median(Budget { calls: 5, seconds: 0.5 }, || {
        Ok(Call::of(Accuracy::optional_scope(accuracy, || linears(&x, &[Layer::plain(weight.borrow())]))?))
    })
}

/// A weight that owns its arrays.
enum Matrix {
    Dense(Array),
    Packed(random::Packed),
    Sparse(SparseMatrix),
}

impl Matrix {
    fn borrow(&self) -> Weight<'_> {
        match self {
            Self::Dense(weight) => Weight::Dense(weight),
            Self::Sparse(matrix) => Weight::Sparse(matrix),
            Self::Packed(random::Packed { codes, scales, biases, format }) => {
                Weight::Packed(PackedWeight { codes, scales, biases: Some(biases), format: *format })
            }
        }
    }
}

/// Unevaluated arrays of one call.
struct Call {
    /// Arrays evaluated before the timer starts, such as the forward pass of a gradient.
    before: Vec<Array>,
    /// Arrays whose evaluation is timed.
    timed: Vec<Array>,
}

impl Call {
    fn of(timed: Vec<Array>) -> Self {
        Self { before: Vec::new(), timed }
    }
}

/// Minimum number of calls and seconds of a measurement.
#[derive(Clone, Copy)]
struct Budget {
    calls: usize,
    seconds: f64,
}

/// Median seconds of building and computing what `build` returns, after one call to warm up.
fn median(budget: Budget, build: impl Fn() -> MlxResult<Call>) -> Result<f64> {
    let call = || {
        let start = Instant::now();
        let Call { before, timed } = build()?;
        let mut seconds = start.elapsed().as_secs_f64();
        eval(&before)?;
        let start = Instant::now();
        eval(&timed)?;
        seconds += start.elapsed().as_secs_f64();
        Ok::<_, Error>(seconds)
    };
    call()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < budget.calls.max(1) || start.elapsed().as_secs_f64() < budget.seconds {
        times.push(call()?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

#[cfg(test)]
mod tests;
