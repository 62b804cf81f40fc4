//! Matrix products C = Σ Aᵢ·Bᵢᵀ with f32 accumulation, for every storage that can be read row by row.
//!
//! The blocked algorithm of [Goto and van de Geijn](https://doi.org/10.1145/1356052.1356053): operands are
//! packed into panels that the micro-kernel reads sequentially, and the result is computed in tiles that fit
//! the cache. Each operand has *lanes* (rows of C on the left, columns of C on the right) and a *depth*, the
//! axis summed over; either may be the rows of the stored matrix, so operands are never transposed in memory.
//!
//! Packing costs 1/lanes of the product, so weights are packed in every call instead of being stored twice.

use crate::runtime::disjoint::Disjoint;
use crate::runtime::isa::Isa;
use crate::runtime::pool::parallel_for;
use crate::runtime::scratch;

pub(super) mod gemv;
#[cfg(target_arch = "x86_64")]
mod gemv_avx512;
mod kernel;
mod operand;
mod pack;
mod rows;
mod transpose;
mod unpacked;

pub(super) use kernel::Precision;
pub(super) use operand::{matrix, precision};
pub(super) use pack::{Lanes, Packed};
pub(super) use rows::{ConcatColumns, Dense, GatheredRows, Rows};
pub(super) use transpose::transpose;
pub(super) use unpacked::{UnpackedRows, multiply_unpacked, supports_unpacked};

use kernel::Kernel;

/// Size of a tile of C: the tile and its panels fit the second-level cache.
const TILE_ROWS: usize = 112;
const TILE_COLUMNS: usize = 256;
/// Depth of one micro-kernel call.
const CHUNK: usize = 512;
/// Words of the right operand packed at once: 8 MiB, to fit the last-level cache.
const BLOCK_WORDS: usize = 2 << 20;

/// A finished part of C.
pub(super) struct Tile<'a> {
    /// Place of its first element in C.
    pub row: usize,
    pub column: usize,
    pub rows: usize,
    pub columns: usize,
    data: &'a mut [f32],
}

impl Tile<'_> {
    /// The elements of one row, counted from the tile's first.
    pub(super) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * TILE_COLUMNS..][..self.columns]
    }
}

/// Computes `Σ left·rightᵀ` over `terms` and passes every tile of the result to `finish`, from several threads.
///
/// All left operands must have the same number of lanes and be packed for the same kernel; all right operands must have
/// the same number of lanes.
pub(super) fn multiply(isa: Isa, terms: &[(&Packed, Lanes)], finish: impl Fn(Tile) + Sync) {
    let [(first, right), ..] = terms else { return };
    let (kernel, rows, columns) = (first.kernel, first.lanes, right.lanes());
    for (left, right) in terms {
        assert!(left.lanes == rows && right.lanes() == columns && right.depth() == left.depth, "gemm: sizes");
        assert!(left.kernel.precision == kernel.precision, "gemm: operands packed for different kernels");
    }
    let steps: usize = terms.iter().map(|(left, _)| left.steps).sum();
    let block = (BLOCK_WORDS / steps.max(1)).next_multiple_of(TILE_COLUMNS);
    let mut packed = scratch::take::<u32>(block.min(columns.next_multiple_of(kernel.right)) * steps);
    for start in (0..columns).step_by(block) {
        let width = block.min(columns - start);
        let panels = width.div_ceil(kernel.right);
        pack_right(isa, kernel, terms, start, &mut packed[..panels * kernel.right * steps]);
        let (tall, wide) = (rows.div_ceil(tile_rows(kernel)), width.div_ceil(TILE_COLUMNS));
        // Neighbours in time share the right operand, the larger one.
        parallel_for(tall * wide, |index| {
            let (row, column) = (index % tall * tile_rows(kernel), index / tall * TILE_COLUMNS);
            let mut data = scratch::take::<f32>(tile_rows(kernel) * TILE_COLUMNS);
            let mut tile = Tile {
                row,
                column,
                rows: tile_rows(kernel).min(rows - row),
                columns: TILE_COLUMNS.min(width - column),
                data: &mut data,
            };
            compute(kernel, terms, &packed, panels, &mut tile);
            tile.column += start;
            finish(tile);
        });
    }
}

/// Name of the micro-kernel for `precision`, for reports.
pub(super) fn describe(isa: Isa, precision: Precision) -> String {
    Kernel::choose(isa, precision).describe()
}

/// Rows of a tile: a whole number of panels.
fn tile_rows(kernel: Kernel) -> usize {
    TILE_ROWS / kernel.left * kernel.left
}

/// Packs the lanes from `start` on of every right operand, one term after the other.
fn pack_right(isa: Isa, kernel: Kernel, terms: &[(&Packed, Lanes)], start: usize, packed: &mut [u32]) {
    let mut rest = packed;
    let total: usize = terms.iter().map(|(left, _)| left.steps).sum();
    let panels = rest.len() / kernel.right / total.max(1);
    for (left, right) in terms {
        let (words, tail) = rest.split_at_mut(panels * kernel.right * left.steps);
        rest = tail;
        pack::pack(isa, kernel.precision, *right, start, kernel.right, words);
    }
}

/// Fills `tile`, whose `column` counts from the start of the packed block of `panels` panels.
fn compute(kernel: Kernel, terms: &[(&Packed, Lanes)], packed: &[u32], panels: usize, tile: &mut Tile) {
    tile.data.fill(0.0);
    let mut offset = 0;
    for (left, _) in terms {
        let steps = left.steps;
        let right = |panel: usize| &packed[offset + panel * kernel.right * steps..][..kernel.right * steps];
        let first = (tile.row / kernel.left, tile.column / kernel.right);
        let count = (tile.rows.div_ceil(kernel.left), tile.columns.div_ceil(kernel.right));
        for chunk in (0..steps).step_by(CHUNK) {
            let end = steps.min(chunk + CHUNK);
            for j in 0..count.1 {
                let b = &right(first.1 + j)[chunk * kernel.right..end * kernel.right];
                for i in 0..count.0 {
                    let a = &left.panel(first.0 + i)[chunk * kernel.left..end * kernel.left];
                    let c = &mut tile.data[i * kernel.left * TILE_COLUMNS + j * kernel.right..];
                    kernel.accumulate(a, b, c, TILE_COLUMNS);
                }
            }
        }
        offset += panels * kernel.right * steps;
    }
}

/// Writes a tile to its position in a row-major matrix of `columns` columns, adding `bias` if given.
pub(super) fn store<T: crate::runtime::element::Element>(
    isa: Isa,
    mut tile: Tile,
    bias: Option<&[f32]>,
    matrix: &Disjoint<T>,
    columns: usize,
) {
    for i in 0..tile.rows {
        let start = (tile.row + i) * columns + tile.column;
        // SAFETY: tiles of one product do not overlap.
        let place = unsafe { matrix.part(start..start + tile.columns) };
        let bias = bias.map(|bias| &bias[tile.column..tile.column + tile.columns]);
        narrow(isa, tile.row_mut(i), bias, place);
    }
}

crate::runtime::isa::vectorized! {
    fn narrow<T: crate::runtime::element::Element>(wide: &mut [f32], bias: Option<&[f32]>, row: &mut [T]) {
        for (x, b) in wide.iter_mut().zip(bias.unwrap_or_default()) {
            *x += b;
        }
        T::narrow(wide, row);
    }
}

#[cfg(test)]
mod tests;
