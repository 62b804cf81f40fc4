//! Random pruning, to compare with.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::mask::{Mask, by_rows};
use super::pattern::Pattern;
use crate::rng::digest;

/// Mask of the layer at `path`, `[rows, columns]`; the same for the same `seed`.
pub(super) fn random(
    path: &str,
    (rows, columns): (usize, usize),
    pattern: Pattern,
    sparsity: f64,
    seed: u64,
) -> Mask {
    let mut rng = ChaCha8Rng::seed_from_u64(digest(path.bytes().map(u64::from).chain([seed])));
    let scores: Vec<f32> = (0..rows * columns).map(|_| rng.random()).collect();
    by_rows(&scores, columns, pattern, sparsity)
}
