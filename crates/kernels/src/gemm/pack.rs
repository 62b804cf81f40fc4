//! Packing of operands into panels.
//!
//! A panel holds a fixed number of lanes: for each step of depth, one word per lane. A word is one f32, or
//! two bf16 that follow each other in depth, which is what the instruction for dot products of bf16 takes.

use std::ops::Range;

use half::bf16;

use super::kernel::{Kernel, Precision};
use super::rows::Rows;
use super::transpose::transpose;
use crate::runtime::disjoint::{Disjoint, parallel_chunks};
use crate::runtime::isa::Isa;
use crate::runtime::pool::{parallel_for, threads};
use crate::runtime::scratch::{self, Scratch};

/// Depth copied at once when lanes are rows: the rows' parts stay in the first-level cache.
const DEPTH: usize = 256;

/// Panels filled at once when lanes are columns: the matrix is read in runs of so many.
const PANELS: usize = 16;

/// Steps that one task has at least.
const MIN_STEPS: usize = 64;

/// A matrix and the axis that forms its lanes.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<'a> {
    matrix: &'a dyn Rows,
    lanes_are_rows: bool,
}

impl<'a> Lanes<'a> {
    /// Uses the rows of `matrix` as lanes.
    pub(crate) fn rows(matrix: &'a dyn Rows) -> Self {
        Self { matrix, lanes_are_rows: true }
    }

    /// Uses the columns of `matrix` as lanes.
    pub(crate) fn columns(matrix: &'a dyn Rows) -> Self {
        Self { matrix, lanes_are_rows: false }
    }

    pub(crate) fn lanes(&self) -> usize {
        let (rows, columns) = self.matrix.shape();
        if self.lanes_are_rows { rows } else { columns }
    }

    pub(crate) fn depth(&self) -> usize {
        let (rows, columns) = self.matrix.shape();
        if self.lanes_are_rows { columns } else { rows }
    }
}

/// A packed left operand, reusable for several products.
pub(crate) struct Packed {
    words: Scratch<u32>,
    pub(super) kernel: Kernel,
    pub(super) lanes: usize,
    pub(super) depth: usize,
    pub(super) steps: usize,
}

impl Packed {
    /// Packs `operand` for products on `isa` in `precision`.
    pub(crate) fn new(isa: Isa, precision: Precision, operand: Lanes) -> Self {
        let kernel = Kernel::choose(isa, precision);
        let (lanes, depth) = (operand.lanes(), operand.depth());
        let steps = depth.div_ceil(kernel.precision.depth_per_word());
        let mut words = scratch::take::<u32>(lanes.next_multiple_of(kernel.left) * steps);
        pack(isa, kernel.precision, operand, 0, kernel.left, &mut words);
        Self { words, kernel, lanes, depth, steps }
    }

    pub(super) fn panel(&self, index: usize) -> &[u32] {
        let len = self.kernel.left * self.steps;
        &self.words[index * len..][..len]
    }
}

/// Fills consecutive panels of `width` lanes on all threads, the first one beginning at `lane`; lanes that the operand
/// does not have are zeros.
pub(super) fn pack(
    isa: Isa,
    precision: Precision,
    operand: Lanes,
    lane: usize,
    width: usize,
    words: &mut [u32],
) {
    let steps = operand.depth().div_ceil(precision.depth_per_word());
    let panels = words.len() / (width * steps).max(1);
    let tasks = 4 * threads();
    if operand.lanes_are_rows {
        let at_once = panels.div_ceil(tasks).clamp(1, PANELS);
        parallel_chunks(words, at_once * width * steps, |index, words| {
            pack_rows(isa, precision, operand, lane + index * at_once * width, width, words);
        });
        return;
    }
    let groups = panels.div_ceil(PANELS);
    let parts = tasks.div_ceil(groups.max(1)).clamp(1, steps.div_ceil(MIN_STEPS).max(1));
    let at_once = steps.div_ceil(parts);
    let words = Disjoint::new(words);
    parallel_for(groups * parts, |task| {
        let (first, part) = (task % groups * PANELS, task / groups);
        let steps_of_part = part * at_once..steps.min((part + 1) * at_once);
        let mut lines: Vec<&mut [u32]> = (first..panels.min(first + PANELS))
            .map(|panel| {
                let start = (panel * steps + steps_of_part.start.min(steps)) * width;
                // SAFETY: each task has panels or steps of its own.
                unsafe { words.part(start..start + steps_of_part.len() * width) }
            })
            .collect();
        pack_columns(isa, precision, operand, lane + first * width, steps_of_part, width, &mut lines);
    });
}

/// Fills panels whose lanes are rows of the matrix, from `lane` on.
fn pack_rows(isa: Isa, precision: Precision, operand: Lanes, lane: usize, width: usize, words: &mut [u32]) {
    let depth = operand.depth();
    let steps = depth.div_ceil(precision.depth_per_word());
    let lanes = operand.lanes().saturating_sub(lane);
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
}

/// Fills `steps` of panels whose lanes are columns of the matrix, from `lane` on.
fn pack_columns(
    isa: Isa,
    precision: Precision,
    operand: Lanes,
    lane: usize,
    steps: Range<usize>,
    width: usize,
    panels: &mut [&mut [u32]],
) {
    let (depth, size) = (operand.depth(), panels.len() * width);
    let run = size.min(operand.lanes().saturating_sub(lane));
    let columns = lane..lane + run;
    match precision {
        Precision::F32 => {
            let mut line = scratch::take::<f32>(size);
            line.fill(0.0);
            for (place, step) in steps.enumerate() {
                operand.matrix.read(isa, step, columns.clone(), &mut line[..run]);
                for (panel, line) in panels.iter_mut().zip(line.chunks_exact(width)) {
                    panel[place * width..][..width].copy_from_slice(bytemuck::cast_slice(line));
                }
            }
        }
        Precision::Bf16 => {
            let [mut even, mut odd] = [scratch::take::<bf16>(size), scratch::take::<bf16>(size)];
            even.fill(bf16::ZERO);
            odd.fill(bf16::ZERO);
            for (place, step) in steps.enumerate() {
                operand.matrix.read_bf16(isa, 2 * step, columns.clone(), &mut even[..run]);
                if 2 * step + 1 < depth {
                    operand.matrix.read_bf16(isa, 2 * step + 1, columns.clone(), &mut odd[..run]);
                } else {
                    odd.fill(bf16::ZERO);
                }
                let lines = even.chunks_exact(width).zip(odd.chunks_exact(width));
                for (panel, (even, odd)) in panels.iter_mut().zip(lines) {
                    interleave(isa, even, odd, &mut panel[place * width..][..width]);
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
    steps: Range<usize>,
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

crate::runtime::isa::vectorized! {
    fn interleave(even: &[bf16], odd: &[bf16], words: &mut [u32]) {
        for ((word, even), odd) in words.iter_mut().zip(even).zip(odd) {
            *word = u32::from(even.to_bits()) | u32::from(odd.to_bits()) << 16;
        }
    }
}
