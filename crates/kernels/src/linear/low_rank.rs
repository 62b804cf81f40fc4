//! Low-rank parts of a group of layers, side by side.

use super::Slots;
use crate::gemm::Tile;

/// The scale of each column of all low-rank parts side by side.
pub(super) fn scales(layers: &[Slots]) -> Vec<f32> {
    let parts = layers.iter().filter_map(|layer| layer.low_rank);
    parts.flat_map(|slots| std::iter::repeat_n(slots.scale, slots.rank)).collect()
}

/// `tile` with each column times its scale.
pub(super) fn scaled<'a>(mut tile: Tile<'a>, scales: &[f32]) -> Tile<'a> {
    let scales = &scales[tile.column..tile.column + tile.columns];
    for i in 0..tile.rows {
        for (x, scale) in tile.row_mut(i).iter_mut().zip(scales) {
            *x *= scale;
        }
    }
    tile
}
