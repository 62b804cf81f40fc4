//! Report of all operations at typical sizes, compared with the roofline.

use serde::Serialize;

use super::cases::{CASES, Case};
use super::peaks::Peaks;
use super::{Budget, median};
use crate::Result;
use crate::runtime::isa::Isa;
use crate::{on_cpu, threads};

/// Result of [`report`].
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Instruction set used by kernels, as in `EAT_ISA`.
    pub isa: &'static str,
    /// Highest instruction set supported by the processor.
    pub highest_isa: &'static str,
    /// Number of threads used by kernels.
    pub threads: usize,
    /// Whether operations run on a GPU, with MLX's kernels.
    pub gpu: bool,
    /// Peak rates of the processor.
    pub peaks: Peaks,
    /// Measurements, one per operation.
    pub rows: Vec<Row>,
}

/// Measurement of one operation.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Name of the operation.
    pub operation: &'static str,
    /// Sizes of its operands.
    pub size: String,
    /// Dtype of activations; accuracy for quantized weights.
    pub format: &'static str,
    /// Instruction set and, for matrix products, the micro-kernel.
    pub path: String,
    /// Median time of one call in seconds.
    pub seconds: f64,
    /// Throughput of matrix products in GFLOP/s.
    pub gflops: f64,
    /// Effective bandwidth in GB/s, counting every operand and result once.
    pub gbs: f64,
    /// Limiting resource on the CPU, by the roofline model.
    pub bound: Bound,
    /// Fraction of the roofline reached; above 1 if operands fit in caches. `None` on GPUs.
    pub share: Option<f64>,
}

/// Resource that limits an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Arithmetic throughput.
    Compute,
    /// Memory bandwidth.
    Memory,
}

/// Measures the peaks and all operations; takes a few seconds.
///
/// # Errors
/// An exception raised by MLX, such as out-of-memory.
pub fn report() -> Result<Report> {
    let isa = Isa::current();
    let peaks = Peaks::measure(isa);
    let rows = CASES.iter().map(|case| row(&case(isa)?, &peaks)).collect::<Result<_>>()?;
    Ok(Report {
        isa: isa.name(),
        highest_isa: Isa::detect().name(),
        threads: threads(),
        gpu: !on_cpu(),
        peaks,
        rows,
    })
}

fn row(case: &Case, peaks: &Peaks) -> Result<Row> {
    let seconds = median(Budget { calls: 3, seconds: 0.1 }, &case.build)?;
    let (bound, least) = roofline(case, peaks);
    let cpu = on_cpu();
    Ok(Row {
        operation: case.operation,
        size: case.size.clone(),
        format: case.format,
        path: if cpu { case.path.clone() } else { "MLX".to_owned() },
        seconds,
        gflops: case.operations / seconds / 1e9,
        gbs: case.bytes / seconds / 1e9,
        bound,
        share: cpu.then(|| least / seconds),
    })
}

/// What bounds `case`, and the seconds it takes at least.
pub(super) fn roofline(case: &Case, peaks: &Peaks) -> (Bound, f64) {
    let compute = case.operations / peaks.operations(case.arithmetic);
    let memory = case.bytes / peaks.bytes();
    if compute > memory { (Bound::Compute, compute) } else { (Bound::Memory, memory) }
}
