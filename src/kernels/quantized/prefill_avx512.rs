//! Products of many rows in 8-bit integers, with VNNI.
//!
//! Levels go into panels of [`WIDTH`] rows of weights, four columns per word, which the instruction
//! for dot products of bytes takes; activations stay row-major. Sums are integers within a group of
//! columns and f32 from group to group, where the scales of both sides come in.

#![allow(clippy::wildcard_imports)] // Intrinsics, whose names tell them apart.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::disjoint::Disjoint;
use super::super::element::Element;
use super::super::gemm::transpose;
use super::super::isa::{Isa, vectorized};
use super::super::pool::run;
use super::super::scratch::{self, Scratch};
use super::activations::Int8;
use super::format::QuantizedRows;
use super::gemv::{Groups, group_size};

/// Rows of weights in a panel: two registers.
const WIDTH: usize = 32;
/// Rows of activations at once: their sums fill the registers.
const HEIGHT: usize = 12;
/// Panels of a task, so that activations are read less often; they fit the second-level cache.
const PANELS: usize = 2;
/// Words of a row brought into a panel at once.
const DEPTH: usize = 64;

/// `y = x·weightsᵀ`; needs [`Isa::Avx512Vnni`].
pub(super) fn multiply<T: Element>(isa: Isa, x: &[f32], weights: &QuantizedRows, y: &mut [T]) {
    assert!(isa >= Isa::Avx512Vnni, "VNNI is missing");
    let (columns, n, group) = (weights.columns, weights.rows, group_size(weights));
    let rows = x.len() / columns;
    let prepared = quantize(isa, x, columns, group);
    let y = Disjoint::new(y);
    run(n.div_ceil(PANELS * WIDTH), |task| {
        let first = task * PANELS * WIDTH;
        let panels: Vec<_> = (first..n.min(first + PANELS * WIDTH))
            .step_by(WIDTH)
            .map(|row| Panel::new(isa, weights, row..n.min(row + WIDTH)))
            .collect();
        for row in (0..rows).step_by(HEIGHT) {
            let height = HEIGHT.min(rows - row);
            for panel in &panels {
                let mut tile = [[0.0; WIDTH]; HEIGHT];
                // SAFETY: the processor has the instructions, as checked above.
                unsafe { panel.multiply(&prepared, row, columns, group, &mut tile[..height]) };
                for (i, tile) in tile[..height].iter().enumerate() {
                    let start = (row + i) * n + panel.rows.start;
                    // SAFETY: every task has rows of weights of its own.
                    let place = unsafe { y.part(start..start + panel.rows.len()) };
                    narrow(isa, &tile[..panel.rows.len()], place);
                }
            }
        }
    });
}

/// Rows go to the threads in blocks.
fn quantize(isa: Isa, x: &[f32], columns: usize, group: usize) -> Int8 {
    /// Numbers of a task.
    const TASK: usize = 1 << 15;
    let groups = x.len() / group;
    let mut all =
        Int8 { codes: scratch::take(x.len()), scales: scratch::take(groups), sums: scratch::take(groups) };
    let step = (TASK / columns).max(1) * columns;
    let (codes, scales, sums) =
        (Disjoint::new(&mut all.codes), Disjoint::new(&mut all.scales), Disjoint::new(&mut all.sums));
    run(x.len().div_ceil(step), |task| {
        let range = task * step..x.len().min((task + 1) * step);
        let numbers = range.start / group..range.end / group;
        // SAFETY: tasks have different ranges, which begin and end with a row.
        let (codes, scales, sums) =
            unsafe { (codes.part(range.clone()), scales.part(numbers.clone()), sums.part(numbers)) };
        Int8::write(isa, &x[range], group, codes, scales, sums);
    });
    all
}

vectorized! {
    fn narrow<T: Element>(wide: &[f32], row: &mut [T]) {
        T::narrow(wide, row);
    }
}

/// Up to [`WIDTH`] rows of weights; those that are missing are zeros.
struct Panel {
    rows: Range<usize>,
    /// `[columns / 4, WIDTH]`, four levels each
    words: Scratch<u32>,
    /// `[groups, WIDTH]`
    scales: Scratch<u32>,
    biases: Scratch<u32>,
}

impl Panel {
    fn new(isa: Isa, weights: &QuantizedRows, rows: Range<usize>) -> Self {
        let columns = weights.columns;
        let mut words = scratch::take::<u32>(columns / 4 * WIDTH);
        let mut block = scratch::take::<u32>(WIDTH * DEPTH);
        block.fill(0);
        for start in (0..columns).step_by(4 * DEPTH) {
            let end = columns.min(start + 4 * DEPTH);
            for (row, line) in rows.clone().zip(block.chunks_exact_mut(DEPTH)) {
                let levels = bytemuck::cast_slice_mut(&mut line[..(end - start) / 4]);
                weights.read_levels(isa, row, start..end, levels);
            }
            transpose(isa, &block, DEPTH, WIDTH, &mut words[start / 4 * WIDTH..end / 4 * WIDTH]);
        }
        let groups = Groups::of(isa, weights, rows.clone());
        let turned = |numbers: &[f32]| {
            // Lines are read 16 words at a time.
            let depth = groups.count.next_multiple_of(16);
            let mut lines = scratch::take::<u32>(WIDTH * depth);
            lines.fill(0);
            for (line, numbers) in lines.chunks_exact_mut(depth).zip(numbers.chunks_exact(groups.count)) {
                line[..groups.count].copy_from_slice(bytemuck::cast_slice(numbers));
            }
            let mut turned = scratch::take::<u32>(WIDTH * groups.count);
            transpose(isa, &lines, depth, WIDTH, &mut turned);
            turned
        };
        let (scales, biases) = (turned(&groups.scales), turned(&groups.biases));
        Self { rows, words, scales, biases }
    }

    /// Adds the products with the rows of `x` from `row` on to `tile`.
    ///
    /// # Safety
    /// The processor has the instructions of [`Isa::Avx512Vnni`].
    unsafe fn multiply(&self, x: &Int8, row: usize, columns: usize, group: usize, tile: &mut [[f32; WIDTH]]) {
        macro_rules! for_height {
            ($($height:literal)*) => {
                match tile.len() {
                    // SAFETY: the caller vouches for the instructions.
                    $($height => unsafe { self.multiply_rows::<$height>(x, row, columns, group, tile) },)*
                    height => unreachable!("{height} rows at once"),
                }
            };
        }
        const { assert!(HEIGHT == 12) }
        for_height!(1 2 3 4 5 6 7 8 9 10 11 12);
    }

    /// # Safety
    /// As of `multiply`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512vnni")]
    unsafe fn multiply_rows<const H: usize>(
        &self,
        x: &Int8,
        row: usize,
        columns: usize,
        group: usize,
        tile: &mut [[f32; WIDTH]],
    ) {
        let groups = columns / group;
        let codes = &x.codes[row * columns..(row + H) * columns];
        let scales = &x.scales[row * groups..(row + H) * groups];
        let sums = &x.sums[row * groups..(row + H) * groups];
        assert!(tile.len() == H && self.words.len() == columns / 4 * WIDTH);
        assert!(self.scales.len() == groups * WIDTH && self.biases.len() == groups * WIDTH);
        // SAFETY: all places are within the slices whose lengths were just checked.
        unsafe {
            for g in 0..groups {
                let mut dots = [[_mm512_setzero_si512(); 2]; H];
                for step in g * group / 4..(g + 1) * group / 4 {
                    let words = self.words.as_ptr().add(step * WIDTH);
                    let w = [_mm512_loadu_si512(words.cast()), _mm512_loadu_si512(words.add(16).cast())];
                    for (r, dots) in dots.iter_mut().enumerate() {
                        let four = codes.as_ptr().add(r * columns + step * 4).cast::<[u8; 4]>();
                        let four = _mm512_set1_epi32(i32::from_le_bytes(*four));
                        dots[0] = _mm512_dpbusd_epi32(dots[0], w[0], four);
                        dots[1] = _mm512_dpbusd_epi32(dots[1], w[1], four);
                    }
                }
                for half in 0..2 {
                    let place = g * WIDTH + half * 16;
                    let scale = _mm512_loadu_ps(self.scales.as_ptr().add(place).cast());
                    let bias = _mm512_loadu_ps(self.biases.as_ptr().add(place).cast());
                    for (r, dots) in dots.iter().enumerate() {
                        let number = r * groups + g;
                        let c = tile.as_mut_ptr().add(r).cast::<f32>().add(half * 16);
                        let both = _mm512_mul_ps(scale, _mm512_set1_ps(*scales.as_ptr().add(number)));
                        let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[half]), both, _mm512_loadu_ps(c));
                        let shift = _mm512_set1_ps(*sums.as_ptr().add(number));
                        _mm512_storeu_ps(c, _mm512_fmadd_ps(bias, shift, sum));
                    }
                }
            }
        }
    }
}
