//! How fast the kernels are on this machine, and how fast they could be.
//!
//! [`measure`] and [`measure_convolution`] time one operation of a size of the caller's. [`report`] times each
//! operation once at a typical size and compares it with the
//! [roofline](https://doi.org/10.1145/1498765.1498785) of the machine: what its arithmetic and its memory allow, as
//! [`Peaks`] measured them.
//!
//! Operations are reached through their public functions, so what is timed is what models run: MLX's own
//! kernels where they run on a GPU.

use std::time::Instant;

use mlx_rs::{Array, Dtype};
use serde::Deserialize;

use crate::error::MlxResult;
use crate::eval;
use crate::linear::{Layer, Weight, linears};
use crate::quantized::{Accuracy, Format, PackedWeight};
use crate::{Error, Result};

mod cases;
mod convolution;
mod peaks;
mod random;
mod report;

pub use convolution::{Convolution, Pass, measure_convolution};
pub use peaks::Peaks;
pub use report::{Bound, Report, Row, report};

/// The largest extent of a layer.
const MAX_EXTENT: usize = 1 << 20;
/// Numbers of the largest matrix: 1 GiB in f32.
const MAX_ELEMENTS: usize = 1 << 28;

/// What [`measure`] can time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `x·Wᵀ`
    Linear,
    /// The same with a packed `W`.
    QuantizedLinear,
}

/// Number format of activations, and of dense weights.
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

/// One operation and its size: `x` is `[rows, inputs]` and `W` is `[outputs, inputs]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Request {
    pub operation: Operation,
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub dtype: Float,
    /// Of a packed weight: 2, 3, 4, 5, 6 or 8.
    pub bits: Option<usize>,
    /// Packed weights that share a scale and a bias: 32, 64 or 128.
    pub group_size: usize,
    /// How products with a packed weight are computed; `None` for as exactly as `dtype` allows.
    pub accuracy: Option<Accuracy>,
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

/// Median seconds of one call on random numbers; takes at least half a second.
///
/// # Errors
/// [`Error::Config`] for sizes and formats that are impossible or too large, before anything is allocated.
pub fn measure(request: &Request) -> Result<f64> {
    let format = request.check()?;
    let Request { rows, inputs, outputs, accuracy, .. } = *request;
    let x = random::floats(&[rows, inputs], request.dtype.dtype(), 1)?;
    let weight = match format {
        None => Matrix::Dense(random::floats(&[outputs, inputs], request.dtype.dtype(), 2)?),
        Some(format) => Matrix::Packed(random::packed(outputs, inputs, format, request.dtype.dtype())?),
    };
    median(Budget { calls: 5, seconds: 0.5 }, || {
        Ok(Call::of(within(accuracy, || linears(&x, &[Layer::plain(weight.borrow())]))?))
    })
}

/// Nodes that `build` builds are computed with `accuracy`, if there is one.
fn within<R>(accuracy: Option<Accuracy>, build: impl FnOnce() -> R) -> R {
    match accuracy {
        Some(accuracy) => accuracy.scope(build),
        None => build(),
    }
}

/// A weight that owns its arrays.
enum Matrix {
    Dense(Array),
    Packed(random::Packed),
}

impl Matrix {
    fn borrow(&self) -> Weight<'_> {
        match self {
            Self::Dense(weight) => Weight::Dense(weight),
            Self::Packed(random::Packed { codes, scales, biases, format }) => {
                Weight::Packed(PackedWeight { codes, scales, biases: Some(biases), format: *format })
            }
        }
    }
}

/// One call: arrays not yet computed.
struct Call {
    /// What must be there before the clock starts, such as the forward pass of a gradient.
    before: Vec<Array>,
    /// What the call computes.
    timed: Vec<Array>,
}

impl Call {
    fn of(timed: Vec<Array>) -> Self {
        Self { before: Vec::new(), timed }
    }
}

/// How long a measurement goes on: until both are reached.
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
