//! Copies operands into panels.
//!
//! A panel holds a fixed number of lanes: for each step of depth, one word per lane. A word is one f32, or
//! two bf16 that follow each other in depth, which is what the instruction for dot products of bf16 takes.

use half::bf16;

use super::super::disjoint::run_chunks;
use super::super::isa::Isa;
use super::super::pool::threads;
use super::super::scratch::{self, Scratch};
use super::kernel::{Kernel, Precision};
use super::rows::Rows;
use super::transpose::transpose;

/// Depth copied at once when lanes are rows: the rows' parts stay in the first-level cache.
const DEPTH: usize = 256;

/// How many of `panels` one task fills: when lanes are columns, the matrix is read in runs of as many
/// panels, so the more the better as long as every thread has something to do.
pub(super) fn panels_at_once(panels: usize) -> usize {
    (panels / (4 * threads())).clamp(1, 16)
}

/// A matrix and which of its axes are lanes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Lanes<'a> {
    matrix: &'a dyn Rows,
    lanes_are_rows: bool,
}

impl<'a> Lanes<'a> {
    /// Lanes are the rows of `matrix`.
    pub(in crate::kernels) fn rows(matrix: &'a dyn Rows) -> Self {
        Self { matrix, lanes_are_rows: true }
    }

    /// Lanes are the columns of `matrix`.
    pub(in crate::kernels) fn columns(matrix: &'a dyn Rows) -> Self {
        Self { matrix, lanes_are_rows: false }
    }

    pub(in crate::kernels) fn lanes(&self) -> usize {
        let (rows, columns) = self.matrix.shape();
        if self.lanes_are_rows { rows } else { columns }
    }

    pub(in crate::kernels) fn depth(&self) -> usize {
        let (rows, columns) = self.matrix.shape();
        if self.lanes_are_rows { columns } else { rows }
    }
}

/// A left operand, ready for any number of products.
pub(in crate::kernels) struct Packed {
    words: Scratch<u32>,
    pub(super) kernel: Kernel,
    pub(super) lanes: usize,
    pub(super) depth: usize,
    pub(super) steps: usize,
}

impl Packed {
    /// Packs `operand` for products on `isa` in `precision`.
    pub(in crate::kernels) fn new(isa: Isa, precision: Precision, operand: Lanes) -> Self {
        let kernel = Kernel::choose(isa, precision);
        let (lanes, depth) = (operand.lanes(), operand.depth());
        let steps = depth.div_ceil(kernel.precision.depth_per_word());
        let mut words = scratch::take::<u32>(lanes.next_multiple_of(kernel.left) * steps);
        let group = panels_at_once(lanes.div_ceil(kernel.left));
        run_chunks(&mut words, group * kernel.left * steps, |index, words| {
            let lane = index * group * kernel.left;
            pack_panels(isa, kernel.precision, operand, lane, kernel.left, words);
        });
        Self { words, kernel, lanes, depth, steps }
    }

    pub(super) fn panel(&self, index: usize) -> &[u32] {
        let len = self.kernel.left * self.steps;
        &self.words[index * len..][..len]
    }
}

/// Fills consecutive panels of `width` lanes, the first one beginning at `lane`; lanes that the operand
/// does not have are zeros.
pub(super) fn pack_panels(
    isa: Isa,
    precision: Precision,
    operand: Lanes,
    lane: usize,
    width: usize,
    words: &mut [u32],
) {
    let depth = operand.depth();
    let steps = depth.div_ceil(precision.depth_per_word());
    let lanes = operand.lanes().saturating_sub(lane);
    if operand.lanes_are_rows {
        let mut block = scratch::take::<u32>(width * DEPTH);
        for (index, panel) in words.chunks_exact_mut(width * steps.max(1)).enumerate() {
            let filled = width.min(lanes.saturating_sub(index * width));
            for start in (0..steps).step_by(DEPTH) {
                let end = steps.min(start + DEPTH);
                // Lanes that are missing, and half a word at the end.
                if filled < width || end == steps {
                    block.fill(0);
                }
                for (i, line) in block.chunks_exact_mut(DEPTH).take(filled).enumerate() {
                    read(isa, precision, operand.matrix, lane + index * width + i, start..end, depth, line);
                }
                transpose(isa, &block, DEPTH, width, &mut panel[start * width..end * width]);
            }
        }
    } else {
        let panels = words.len() / (width * steps.max(1));
        let run = lanes.min(panels * width);
        let mut first = scratch::take::<f32>(panels * width);
        let mut pair = [scratch::take::<bf16>(panels * width), scratch::take::<bf16>(panels * width)];
        first.fill(0.0);
        for line in &mut pair {
            line.fill(bf16::ZERO);
        }
        for step in 0..steps {
            match precision {
                Precision::F32 => {
                    operand.matrix.read(isa, step, lane..lane + run, &mut first[..run]);
                    for (panel, line) in words.chunks_exact_mut(width * steps).zip(first.chunks_exact(width))
                    {
                        panel[step * width..][..width].copy_from_slice(bytemuck::cast_slice(line));
                    }
                }
                Precision::Bf16 => {
                    let [even, odd] = &mut pair;
                    operand.matrix.read_bf16(isa, 2 * step, lane..lane + run, &mut even[..run]);
                    if 2 * step + 1 < depth {
                        operand.matrix.read_bf16(isa, 2 * step + 1, lane..lane + run, &mut odd[..run]);
                    } else {
                        odd.fill(bf16::ZERO);
                    }
                    let lines = even.chunks_exact(width).zip(odd.chunks_exact(width));
                    for (panel, (even, odd)) in words.chunks_exact_mut(width * steps).zip(lines) {
                        interleave(isa, even, odd, &mut panel[step * width..][..width]);
                    }
                }
            }
        }
    }
}

/// Words `steps` of one row.
fn read(
    isa: Isa,
    precision: Precision,
    matrix: &dyn Rows,
    row: usize,
    steps: std::ops::Range<usize>,
    depth: usize,
    line: &mut [u32],
) {
    match precision {
        Precision::F32 => {
            let line: &mut [f32] = bytemuck::cast_slice_mut(line);
            let len = steps.len();
            matrix.read(isa, row, steps, &mut line[..len]);
        }
        Precision::Bf16 => {
            let line: &mut [bf16] = bytemuck::cast_slice_mut(line);
            let columns = 2 * steps.start..depth.min(2 * steps.end);
            let len = columns.len();
            matrix.read_bf16(isa, row, columns, &mut line[..len]);
        }
    }
}

super::super::isa::vectorized! {
    fn interleave(even: &[bf16], odd: &[bf16], words: &mut [u32]) {
        for ((word, even), odd) in words.iter_mut().zip(even).zip(odd) {
            *word = u32::from(even.to_bits()) | u32::from(odd.to_bits()) << 16;
        }
    }
}
