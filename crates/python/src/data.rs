//! `_core.data`: the order of training data.

use efficientai_toolkit::data;
use pyo3::prelude::*;

/// Rows of each batch in one pass over rows of these lengths, in tokens: what another library has to read to learn from
/// the same batches.
#[pyfunction]
pub(super) fn epoch_batches(
    lengths: Vec<usize>,
    batch_size: usize,
    seed: u64,
    epoch: u64,
) -> Vec<Vec<usize>> {
    data::epoch_batches(&lengths, batch_size, seed, epoch)
}
