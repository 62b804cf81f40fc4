//! Products whose left operand is read in place, without packing: faster if elements are used by few columns of the
//! right operand, or shared by many rows.

use super::kernel::{Kernel, Precision};
use super::pack::{Lanes, pack};
use super::{BLOCK_WORDS, CHUNK, TILE_COLUMNS, TILE_ROWS, Tile, tile_rows};
use crate::runtime::isa::Isa;
use crate::runtime::pool::parallel_for;
use crate::runtime::scratch;

/// An f32 matrix whose rows consist of contiguous segments of equal length.
pub(crate) trait UnpackedRows: Sync {
    fn rows(&self) -> usize;

    /// Number of segments per row, and elements per segment.
    fn segments(&self) -> (usize, usize);

    /// Segment `index` of `row`.
    fn segment(&self, row: usize, index: usize) -> &[f32];
}

/// Whether products in `precision` on `isa` support unpacked left operands.
pub(crate) fn supports_unpacked(isa: Isa, precision: Precision) -> bool {
    let kernel = Kernel::choose(isa, precision);
    kernel.precision == Precision::F32 && kernel.reads_rows()
}

/// Computes `left·rightᵀ` in f32 and passes every tile of the result to `finish`, from several threads.
pub(crate) fn multiply_unpacked(
    isa: Isa,
    left: &impl UnpackedRows,
    right: Lanes,
    finish: impl Fn(Tile) + Sync,
) {
    let kernel = Kernel::choose(isa, Precision::F32);
    let (rows, columns, depth, (count, len)) = (left.rows(), right.lanes(), right.depth(), left.segments());
    assert!(count * len == depth, "gemm: {count} runs of {len} are not {depth} numbers");
    let block = (BLOCK_WORDS / depth.max(1)).next_multiple_of(TILE_COLUMNS);
    let mut packed = scratch::take::<u32>(block.min(columns.next_multiple_of(kernel.right)) * depth);
    for start in (0..columns).step_by(block) {
        let width = block.min(columns - start);
        let packed = &mut packed[..width.next_multiple_of(kernel.right) * depth];
        pack(isa, kernel.precision, right, start, kernel.right, packed);
        let (tall, wide) = (rows.div_ceil(tile_rows(kernel)), width.div_ceil(TILE_COLUMNS));
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
            compute(kernel, left, packed, depth, &mut tile);
            tile.column += start;
            finish(tile);
        });
    }
}

/// Fills `tile`, whose `column` counts from the start of the packed block.
fn compute(kernel: Kernel, left: &impl UnpackedRows, packed: &[u32], depth: usize, tile: &mut Tile) {
    tile.data.fill(0.0);
    let (count, len) = left.segments();
    let panels = tile.column / kernel.right..(tile.column + tile.columns).div_ceil(kernel.right);
    for index in 0..count {
        // Rows that are missing in the last block are the last one again; nobody looks at their results.
        let rows: [&[f32]; TILE_ROWS] =
            std::array::from_fn(|i| left.segment(tile.row + i.min(tile.rows - 1), index));
        for chunk in (0..len).step_by(CHUNK) {
            let end = len.min(chunk + CHUNK);
            for (j, panel) in panels.clone().enumerate() {
                let steps = panel * depth + index * len + chunk..panel * depth + index * len + end;
                let b = &packed[steps.start * kernel.right..steps.end * kernel.right];
                for first in (0..tile.rows).step_by(kernel.left) {
                    let c = &mut tile.data[first * TILE_COLUMNS + j * kernel.right..];
                    kernel.accumulate_rows(&rows[first..first + kernel.left], chunk, b, c, TILE_COLUMNS);
                }
            }
        }
    }
}
