//! Every operation at a typical size, beside what the machine allows.

use serde::Serialize;

use super::cases::{CASES, Case};
use super::peaks::Peaks;
use super::{Budget, median};
use crate::Result;
use crate::runtime::isa::Isa;
use crate::{on_cpu, threads};

/// What [`report`] found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Instruction set that kernels use, as `EAT_ISA` spells it.
    pub isa: &'static str,
    /// The best one of the processor.
    pub highest_isa: &'static str,
    /// Threads that kernels use.
    pub threads: usize,
    /// Whether a GPU does the work, with MLX's own kernels.
    pub gpu: bool,
    /// What the processor can do.
    pub peaks: Peaks,
    /// One operation each.
    pub rows: Vec<Row>,
}

/// One operation.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name.
    pub operation: &'static str,
    /// Its extents.
    pub size: String,
    /// Number format of activations; for packed weights, how products are computed.
    pub format: &'static str,
    /// Instruction set and, for products, the inner loop.
    pub path: String,
    /// Median time of one call.
    pub seconds: f64,
    /// 10⁹ operations of matrix products per second.
    pub gflops: f64,
    /// 10⁹ bytes per second that must at least be moved: every operand and result once.
    pub gbs: f64,
    /// What sets the pace on the CPU.
    pub bound: Bound,
    /// Share of the best possible speed; more than 1 where caches hold the operands. `None` on a GPU.
    pub share: Option<f64>,
}

/// Which peak an operation runs into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Arithmetic.
    Compute,
    /// Memory.
    Memory,
}

/// Measures the peaks and all operations: a few seconds.
///
/// # Errors
/// What MLX raises, when memory runs out above all.
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
